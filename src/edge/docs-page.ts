import { readFile } from 'node:fs/promises';

/** A file as it is answered. */
export interface Page {
  readonly type: string;
  readonly bytes: Uint8Array;
}

/** Swagger UI sets styles on elements and has images in its styles; scripts, and whom the page may talk to, are this service alone. */
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
<style>.info .description th, .info .description td { padding-right: 1em !important; }</style>
</head>
<body>
<noscript>This page needs JavaScript; the document that it shows is <a href="openapi.json">openapi.json</a>.</noscript>
<main id="docs"></main>
<script src="docs/swagger-ui.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
`;

/** No validator: it would be asked at its own address. */
const start = `SwaggerUIBundle({
  url: 'openapi.json',
  dom_id: '#docs',
  deepLinking: true,
  docExpansion: 'list',
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  filter: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});
`;

/** The package has no code for Node that is worth loading: its files are what is served. */
const fileOf = (name: string) => readFile(new URL(import.meta.resolve(`swagger-ui-dist/${name}`)));

/** What stands under `/docs`, by its path. */
export const pages: Readonly<Record<string, () => Promise<Page>>> = {
  '/docs': async () => ({ type: 'text/html; charset=utf-8', bytes: Buffer.from(html) }),
  '/docs/start.js': async () => ({ type: 'text/javascript; charset=utf-8', bytes: Buffer.from(start) }),
  '/docs/swagger-ui.js': async () => ({
    type: 'text/javascript; charset=utf-8',
    bytes: await fileOf('swagger-ui-bundle.js'),
  }),
  '/docs/swagger-ui.css': async () => ({ type: 'text/css; charset=utf-8', bytes: await fileOf('swagger-ui.css') }),
  '/docs/favicon.png': async () => ({ type: 'image/png', bytes: await fileOf('favicon-32x32.png') }),
};
