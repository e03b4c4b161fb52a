import { createHash } from 'node:crypto';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { toConnectError, toHttp } from '../../rpc/error-mapping.ts';
import type { Request, Response } from '../../rpc/request-context.ts';
import { acceptsCoding } from '../content-coding.ts';
import type { DocsParts } from './api-document.ts';
import { type Page, pagePolicy, pages } from './page.ts';

/** A page with its ETag and its compressed form. */
interface PreparedPage extends Page {
  readonly tag: string;
  readonly gzipped: Uint8Array | undefined;
}

const compress = promisify(gzip);
/** Smaller pages fit one packet and are not compressed. */
const compressMinBytes = 1400;

/** The paths that `createDocs` serves. */
export const docsPaths: ReadonlySet<string> = new Set([...Object.keys(pages), '/openapi.json', '/']);

/**
 * Serves `/openapi.json`, `/docs`, and `/`, which redirects browsers to the docs and lists the
 * paths for others. Requires no credential: browsers send none when they open a page, and the
 * content is public. Returns false for other requests.
 */
export function createDocs(parts: DocsParts): (request: Request, response: Response) => boolean {
  const sources: Record<string, () => Promise<Page>> = {
    ...pages,
    '/openapi.json': async () => {
      const { createApiDocument } = await import('./api-document.ts');
      return jsonPage(createApiDocument(parts));
    },
    '/': async () =>
      jsonPage({
        name: 'sendbatch',
        version: parts.version,
        ...(parts.hasConsole ? { console: '/console/' } : {}),
        docs: '/docs',
        openapi: '/openapi.json',
        ready: '/readyz',
      }),
  };
  // Loaded and rendered on first use: the document takes 30 ms, which would delay each start.
  const preparedPages = new Map<string, Promise<PreparedPage>>();
  return (request, response) => {
    const path = (request.url ?? '').split('?', 1)[0] ?? '';
    const source = Object.hasOwn(sources, path) ? sources[path] : undefined;
    if (source === undefined || (request.method !== 'GET' && request.method !== 'HEAD')) return false;
    if (path === '/' && request.headers.accept?.includes('text/html')) {
      response.writeHead(302, { location: '/docs', 'content-length': 0 });
      response.end();
      return true;
    }
    let page = preparedPages.get(path);
    if (page === undefined) {
      page = source().then(prepare);
      preparedPages.set(path, page);
    }
    page.then(
      (found) => send(request, response, found),
      (error) => {
        preparedPages.delete(path);
        const { status, body } = toHttp(toConnectError(error));
        response.writeHead(status, { 'content-type': 'application/json' });
        response.end(JSON.stringify(body));
      },
    );
    return true;
  };
}

function jsonPage(value: object): Page {
  return { type: 'application/json', bytes: Buffer.from(JSON.stringify(value)) };
}

async function prepare(page: Page): Promise<PreparedPage> {
  const tag = `"${createHash('sha256').update(page.bytes).digest('base64url').slice(0, 22)}"`;
  const gzipped = page.bytes.length < compressMinBytes ? undefined : await compress(page.bytes);
  return { ...page, tag, gzipped };
}

function send(request: Request, response: Response, { type, bytes, tag, gzipped }: PreparedPage): void {
  if (response.destroyed) return;
  const headers = {
    etag: tag,
    // Revalidated each time (304): a new version's page must not run an old version's script.
    'cache-control': 'no-cache',
    vary: 'Accept-Encoding, Origin',
    'content-security-policy': pagePolicy,
    'referrer-policy': 'no-referrer',
  };
  if (request.headers['if-none-match'] === tag) {
    response.writeHead(304, headers);
    response.end();
    return;
  }
  const body = acceptsCoding(request, 'gzip') && gzipped !== undefined ? gzipped : bytes;
  response.writeHead(200, {
    ...headers,
    'content-type': type,
    'content-length': body.length,
    ...(body === bytes ? {} : { 'content-encoding': 'gzip' }),
  });
  response.end(request.method === 'HEAD' ? '' : body);
}
