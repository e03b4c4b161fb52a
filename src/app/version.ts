import { createRequire } from 'node:module';

/** By package name: the manifest's path differs between a checkout and an installed package. */
const manifest: unknown = createRequire(import.meta.url)('sendbatch/package.json');

/** The version of the service, from package.json. */
export const version: string = (manifest as { version: string }).version;
