import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { stripTypeScriptTypes } from 'node:module';
import type { AddressInfo } from 'node:net';
import { join, normalize } from 'node:path';

const root = join(import.meta.dirname, '../..');

/** Resolves bare names from the packages' own `exports`, as a bundler would. */
function importMap(): object {
  const imports: Record<string, string> = {
    'sendbatch/client': '/dist/src/client/index.js',
    // The generated code contains the options of the validation rules.
    '@bufbuild/protovalidate/gen/': '/node_modules/@bufbuild/protovalidate/dist/esm/gen/',
  };
  for (const name of ['@bufbuild/protobuf', '@connectrpc/connect', '@connectrpc/connect-web']) {
    const { exports } = JSON.parse(readFileSync(join(root, 'node_modules', name, 'package.json'), 'utf8')) as {
      exports: Record<string, { import: string }>;
    };
    for (const [path, { import: file }] of Object.entries(exports))
      imports[name + path.slice(1)] = `/node_modules/${name}/${normalize(file)}`;
  }
  return { imports };
}

/** A server of web pages, on another origin than the service's. */
export interface PageServer {
  readonly url: string;
  close(): void;
}

/**
 * Serves HTML by its path, with an import map, and the repository files that it imports; TypeScript
 * without its types.
 * `dist` is the folder of a build, for pages that need one.
 */
export async function servePages(pages: Readonly<Record<string, string>>, dist?: string): Promise<PageServer> {
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? '/', 'http://page');
    const html = Object.hasOwn(pages, pathname) ? pages[pathname] : undefined;
    if (html !== undefined) {
      response.setHeader('content-type', 'text/html');
      response.end(html.replace('<script', `<script type="importmap">${JSON.stringify(importMap())}</script><script`));
      return;
    }
    const file = join(dist !== undefined && pathname.startsWith('/dist/') ? dist : root, normalize(pathname));
    if (!existsSync(file)) return response.writeHead(404).end();
    const text = readFileSync(file, 'utf8');
    response.setHeader('content-type', 'text/javascript');
    response.end(file.endsWith('.ts') ? stripTypeScriptTypes(text) : text);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () => server.close(),
  };
}
