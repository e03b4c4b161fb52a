/**
 * Serves the console, the built files of `gen/console`, at `/console`.
 *
 * - Any path below `/console/` that names no file is a page of the console and answers
 *   `index.html`, so that every page can be opened by its address. Its relative links begin with
 *   `./`; they are rewritten to the depth of the path, so that a path prefix of a proxy does not
 *   matter.
 * - Requires no credential: the files are public, and the page signs in for its calls.
 * - Files below `assets/` have a hash in their names and never change. All others are revalidated.
 * - Files are read and compressed when they are first asked for, then kept: about 1 MB.
 */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { extname, join, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { brotliCompress, constants, gzip } from 'node:zlib';
import { toConnectError, toHttp } from '../../rpc/error-mapping.ts';
import type { Request, Response } from '../../rpc/request-context.ts';
import { acceptsCoding } from '../content-coding.ts';
import { notBuiltPage } from './not-built.ts';

/**
 * No inline script or style, no eval, no foreign host, no frame. `img-src` also has data: for the
 * icons of style sheets.
 */
const policy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "font-src 'self'",
  "connect-src 'self'",
  "worker-src 'self'",
  "manifest-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const types: Readonly<Record<string, string>> = {
  '.css': 'text/css; charset=utf-8',
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.json': 'application/json',
  '.md': 'text/markdown; charset=utf-8',
  '.png': 'image/png',
  '.svg': 'image/svg+xml',
  '.txt': 'text/plain; charset=utf-8',
  '.wasm': 'application/wasm',
  '.woff2': 'font/woff2',
};

const compressGzip = promisify(gzip);
const compressBrotli = promisify(brotliCompress);
/** 1.5 % larger than the best quality, in a tenth of its time: 20 ms for 200 kB, in a thread. */
const brotliQuality = 9;
/** Smaller answers fit one packet and are not compressed. */
const compressMinBytes = 1400;

/** What is sent, in every encoding. */
interface Prepared {
  readonly status: number;
  readonly type: string;
  readonly tag: string;
  readonly isImmutable: boolean;
  readonly bytes: Uint8Array;
  readonly gzipped: Uint8Array | undefined;
  readonly brotli: Uint8Array | undefined;
}

/** The build in a checkout and in `dist/` of a package. */
const folders = ['../../../gen/console', '../../../../gen/console'].map((path) =>
  fileURLToPath(new URL(path, import.meta.url)),
);

/** Serves the console; returns false for requests outside of `/console`. */
export function createConsole(
  candidates: readonly string[] = folders,
): (request: Request, response: Response) => boolean {
  let found: Promise<BuiltFiles | undefined> | undefined;
  const prepared = new Map<string, Promise<Prepared | undefined>>();
  /** `address`: below `/console/`, as the request has it. */
  const find = async (address: string): Promise<Prepared | undefined> => {
    found ??= findBuild(candidates);
    const build = await found;
    if (build === undefined) {
      // A build may follow.
      found = undefined;
      return prepare({ path: 'index.html', status: 503, bytes: Buffer.from(notBuiltPage) });
    }
    const path = decoded(address);
    const isFile = build.files.has(path) && path !== indexFile;
    if (!isFile && path.startsWith(assets)) return undefined;
    const depth = isFile ? 0 : Math.min(address.split('/').length - 1, maxDepth);
    const key = isFile ? path : `${depth}/${indexFile}`;
    let answer = prepared.get(key);
    if (answer === undefined) {
      answer = readFile(join(build.folder, isFile ? path : indexFile)).then((bytes) =>
        prepare({ path: isFile ? path : indexFile, status: 200, bytes: isFile ? bytes : atDepth(bytes, depth) }),
      );
      prepared.set(key, answer);
      answer.catch(() => prepared.delete(key));
    }
    return await answer;
  };
  return (request, response) => {
    const [path = ''] = (request.url ?? '').split('?', 1);
    if (!isConsolePath(path)) return false;
    if (request.method !== 'GET' && request.method !== 'HEAD') return false;
    if (path === root) {
      // Relative to the request, whatever prefix a proxy has removed.
      response.writeHead(302, { location: `console/${(request.url ?? '').slice(path.length)}`, 'content-length': 0 });
      response.end();
      return true;
    }
    find(path.slice(root.length + 1)).then(
      (file) => (file === undefined ? sendNotFound(response) : send(request, response, file)),
      (error) => {
        const { status, body } = toHttp(toConnectError(error));
        response.writeHead(status, { 'content-type': 'application/json' });
        response.end(JSON.stringify(body));
      },
    );
    return true;
  };
}

const root = '/console';

/** Whether a path is served by the console. */
export function isConsolePath(path: string): boolean {
  return path === root || path.startsWith(`${root}/`);
}

const indexFile = 'index.html';
const assets = 'assets/';
/** Depths above this share one index: no page of the console is as deep. */
const maxDepth = 16;

interface BuiltFiles {
  readonly folder: string;
  /** Paths below the folder, with `/`. A request is answered from this list only. */
  readonly files: ReadonlySet<string>;
}

async function findBuild(candidates: readonly string[]): Promise<BuiltFiles | undefined> {
  for (const folder of candidates) {
    const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
    const files = new Set(
      entries
        .filter((entry) => entry.isFile())
        .map((entry) =>
          join(entry.parentPath, entry.name)
            .slice(folder.length + 1)
            .replaceAll(sep, '/'),
        ),
    );
    if (files.has(indexFile)) return { folder, files };
  }
  return undefined;
}

/** A path that cannot be decoded names no file. */
function decoded(path: string): string {
  try {
    return decodeURIComponent(path);
  } catch {
    return '';
  }
}

/** Rewrites the links of `index.html`, which begin with `./`, for a page this deep. */
function atDepth(index: Uint8Array, depth: number): Uint8Array {
  const up = depth === 0 ? './' : '../'.repeat(depth);
  return Buffer.from(
    Buffer.from(index)
      .toString()
      .replace(/(\s(?:href|src)=")\.\//g, `$1${up}`),
  );
}

async function prepare({
  path,
  status,
  bytes,
}: {
  readonly path: string;
  readonly status: number;
  readonly bytes: Uint8Array;
}): Promise<Prepared> {
  const tag = `"${createHash('sha256').update(bytes).digest('base64url').slice(0, 22)}"`;
  const type = types[extname(path)] ?? 'application/octet-stream';
  const compresses = bytes.length >= compressMinBytes && !/^(image\/png|font\/)/.test(type);
  const [gzipped, brotli] = compresses
    ? await Promise.all([
        compressGzip(bytes),
        compressBrotli(bytes, {
          params: {
            [constants.BROTLI_PARAM_QUALITY]: brotliQuality,
            [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length,
          },
        }),
      ])
    : [];
  return { status, type, tag, isImmutable: path.startsWith(assets), bytes, gzipped, brotli };
}

function send(request: Request, response: Response, file: Prepared): void {
  if (response.destroyed) return;
  const headers = {
    etag: file.tag,
    'cache-control': file.isImmutable ? 'public, max-age=31536000, immutable' : 'no-cache',
    vary: 'Accept-Encoding, Origin',
    'content-security-policy': policy,
    'cross-origin-opener-policy': 'same-origin',
    'referrer-policy': 'no-referrer',
  };
  if (file.status === 200 && request.headers['if-none-match'] === file.tag) {
    response.writeHead(304, headers);
    response.end();
    return;
  }
  const [encoding, body] = encodingFor(request, file);
  response.writeHead(file.status, {
    ...headers,
    'content-type': file.type,
    'content-length': body.length,
    ...(encoding === undefined ? {} : { 'content-encoding': encoding }),
  });
  response.end(request.method === 'HEAD' ? '' : body);
}

function encodingFor(request: Request, file: Prepared): [string | undefined, Uint8Array] {
  if (file.brotli !== undefined && acceptsCoding(request, 'br')) return ['br', file.brotli];
  if (file.gzipped !== undefined && acceptsCoding(request, 'gzip')) return ['gzip', file.gzipped];
  return [undefined, file.bytes];
}

/** A missing asset: an old page asks for a file of its build. */
function sendNotFound(response: Response): void {
  if (response.destroyed) return;
  const text = 'this file is not part of the console of this version; reload the page\n';
  response.writeHead(404, {
    'content-type': 'text/plain; charset=utf-8',
    'content-length': text.length,
    'cache-control': 'no-store',
  });
  response.end(text);
}
