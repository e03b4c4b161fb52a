import { createRequire } from 'node:module';

/**
 * By the package's own name: the place of its manifest is another one in a checkout than in an
 * installed package.
 */
const manifest: unknown = createRequire(import.meta.url)('sendbatch/package.json');

/** The service's version, as in its package. */
export const version: string = (manifest as { version: string }).version;
