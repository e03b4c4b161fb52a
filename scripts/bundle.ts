// Bundles the service and its command line with the packages that they use:
//   node scripts/bundle.ts FOLDER
// writes FOLDER/main.js, FOLDER/chunks/ and the licenses of those packages. `npm run build` does so
// for the published package, `npm test` for the processes that it starts.
//
// A start takes half of the CPU and of the time: Node links 70 modules instead of 1,160. FOLDER is
// two levels below the project, which is where the chunks look for gen/console.
import { relative, resolve } from 'node:path';
import { build } from 'vite';

const root = resolve(import.meta.dirname, '..');
/** The thread of moderation is started by its file, which is next to the chunks. */
const entries = { main: 'src/main.ts', 'chunks/worker': 'src/moderation/worker.ts' };
/** Packages that `pg` would use if they were installed. */
const absent = ['pg-cloudflare', 'pg-native'];

/** Replaces what the folder contains. */
export async function bundle(folder: string): Promise<void> {
  await build({
    configFile: false,
    root,
    logLevel: 'error',
    publicDir: false,
    ssr: { target: 'node', noExternal: true, external: absent },
    build: {
      ssr: true,
      outDir: relative(root, resolve(folder)),
      emptyOutDir: true,
      target: 'node22',
      // Stack traces and messages keep the names of functions and classes.
      minify: false,
      license: { fileName: 'licenses.md' },
      rolldownOptions: {
        input: entries,
        output: {
          entryFileNames: '[name].js',
          chunkFileNames: 'chunks/[name].js',
          keepNames: true,
          comments: { legal: false, annotation: false, jsdoc: false },
        },
      },
    },
  });
}

if (import.meta.main) {
  const [folder] = process.argv.slice(2);
  if (folder === undefined) throw new Error('usage: bundle.ts FOLDER');
  await bundle(folder);
}
