import { createHash } from 'node:crypto';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { comments } from '../../../gen/sendbatch/comments.ts';
import { BatchService } from '../../../gen/sendbatch/v1/batch_service_pb.ts';
import { createDocument, type Document } from '../../openapi/document.ts';
import { examples } from '../../openapi/examples/index.ts';
import { morePaths } from '../../openapi/more-paths.ts';
import { knownReasons, toConnectError, toHttp } from '../../rpc/error-mapping.ts';
import { scopeOf } from '../../rpc/interceptors/authenticate.ts';
import { alwaysWritten, legacyAnswers } from '../../rpc/legacy.ts';
import type { Request, Response } from '../../rpc/request-context.ts';
import type { Binding } from '../../transcode/index.ts';
import { type Page, pagePolicy, pages } from './page.ts';

export interface DocsParts {
  readonly version: string;
  /** Whether `/` names the console. */
  readonly hasConsole: boolean;
  /** Whether calls need a credential. */
  readonly needsCredential: boolean;
  readonly bindings: readonly Binding[];
}

/** A page with its ETag and its compressed form. */
interface PreparedPage extends Page {
  readonly tag: string;
  readonly gzipped: Uint8Array | undefined;
}

const compress = promisify(gzip);
/** Smaller pages fit one packet and are not compressed. */
const compressMinBytes = 1400;

/**
 * Serves `/openapi.json`, `/docs`, and `/`, which redirects browsers to the docs and lists the
 * paths for others. Requires no credential: browsers send none when they open a page, and the
 * content is public. Returns false for other requests.
 */
export function createDocs(parts: DocsParts): (request: Request, response: Response) => boolean {
  const sources: Record<string, () => Promise<Page>> = {
    ...pages,
    '/openapi.json': async () => jsonPage(createApiDocument(parts)),
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
  // Rendered on first use: the document takes 20 ms, which would delay each start.
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

/** The OpenAPI document of the JSON routes. */
export function createApiDocument({ version, needsCredential, bindings }: DocsParts): Document {
  return createDocument({
    title: 'sendbatch',
    version,
    description,
    bindings,
    comments,
    examples,
    alwaysWritten,
    answersOf: legacyAnswers,
    headersOf: ({ input }) =>
      input.fields.some((field) => field.name === 'request_id')
        ? { 'Idempotency-Key': 'Equivalent to `request_id`: a key that makes a retry of the same call safe.' }
        : {},
    formsOf: (method) => (method === BatchService.method.submitBatch ? ndjson : {}),
    scopeOf,
    needsCredential,
    securitySchemes: {
      bearer: {
        type: 'http',
        scheme: 'bearer',
        description: 'An API key (`sb_…`), or a JWT of the configured issuer.',
      },
      token: {
        type: 'apiKey',
        in: 'header',
        name: 'token',
        description: 'An API key in the header of the legacy server.',
      },
    },
    reasons: knownReasons,
    morePaths,
  });
}

/** The other body format of SubmitBatch (ndjson.ts). */
const ndjson = {
  'application/x-ndjson': {
    schema: {
      type: 'string',
      description: 'One message per line; the options are query parameters with the same names.',
    },
    example:
      '{"from_uid":"system","channel_id":"group123","channel_type":2,"payload":"SGk="}\n{"from_uid":"system","channel_id":"group456","channel_type":2,"payload":"SGk="}\n',
  },
};

const description = `A batch message service. gRPC, gRPC-Web and Connect serve the same calls under \`/sendbatch.v1.<Service>/<Method>\`; this document describes the JSON routes.

Requests: fields have their proto name or its lowerCamelCase form; \`null\` means unset; any Content-Type is read as JSON. Unknown fields are refused under \`/v1/\` and ignored on the legacy routes, which also accept names in any case. Unknown query parameters are refused on every route. Enums are numbers or names, also without their prefix and in any case (\`high\` for \`BATCH_PRIORITY_HIGH\`). Bytes are base64. 64-bit numbers may be strings.

Answers: enums and 64-bit numbers are numbers, at most 2^53-1. Every answer has the header \`x-request-id\`; a request may set it.`;

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
  const acceptsGzip = /\bgzip\b/.test(String(request.headers['accept-encoding'] ?? ''));
  const body = acceptsGzip && gzipped !== undefined ? gzipped : bytes;
  response.writeHead(200, {
    ...headers,
    'content-type': type,
    'content-length': body.length,
    ...(body === bytes ? {} : { 'content-encoding': 'gzip' }),
  });
  response.end(request.method === 'HEAD' ? '' : body);
}
