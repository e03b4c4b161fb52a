import { readFile } from 'node:fs/promises';
import { script } from './page-script.ts';
import { style } from './page-style.ts';

/** A file and its content type. */
export interface Page {
  readonly type: string;
  readonly bytes: Uint8Array;
}

/**
 * Swagger UI sets inline styles and uses images in its styles. Scripts and calls are limited to
 * this service.
 */
export const pagePolicy =
  "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const html = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>sendbatch: the API</title>
<link rel="icon" type="image/png" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="stylesheet" href="docs/page.css">
</head>
<body>
<noscript>This page needs JavaScript; the document that it shows is <a href="openapi.json">openapi.json</a>.</noscript>
<main id="docs"></main>
<dialog aria-labelledby="question">
<h2 id="question">Send this call?</h2>
<p></p>
<code></code>
<footer><button type="button" value="">Cancel</button><button type="button" value="send">Send</button></footer>
</dialog>
<script src="docs/swagger-ui.js"></script>
<script src="docs/page.js"></script>
</body>
</html>
`;

/**
 * Reads files of swagger-ui-dist directly: its Node entry point has nothing else to offer. Their
 * names are written in full, so that `scripts/prune.ts` finds and keeps them.
 */
const fileOf = (name: string) => readFile(new URL(import.meta.resolve(name)));

/** The pages under `/docs`, by path. */
export const pages: Readonly<Record<string, () => Promise<Page>>> = {
  '/docs': async () => ({ type: 'text/html; charset=utf-8', bytes: Buffer.from(html) }),
  '/docs/page.js': async () => ({ type: 'text/javascript; charset=utf-8', bytes: Buffer.from(script) }),
  '/docs/page.css': async () => ({ type: 'text/css; charset=utf-8', bytes: Buffer.from(style) }),
  '/docs/swagger-ui.js': async () => ({
    type: 'text/javascript; charset=utf-8',
    bytes: await fileOf('swagger-ui-dist/swagger-ui-bundle.js'),
  }),
  '/docs/swagger-ui.css': async () => ({
    type: 'text/css; charset=utf-8',
    bytes: await fileOf('swagger-ui-dist/swagger-ui.css'),
  }),
  '/docs/favicon.png': async () => ({ type: 'image/png', bytes: await fileOf('swagger-ui-dist/favicon-32x32.png') }),
};
