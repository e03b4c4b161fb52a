import { defineConfig } from 'vite';
import { workerLicenses } from './worker-licenses.ts';

/**
 * Builds into gen/console, which the service serves at /console. The build is deterministic: names
 * have a hash of the content, and nothing depends on the time or the folder.
 */
export default defineConfig(({ command }) => ({
  root: import.meta.dirname,
  // Relative, so that the console works behind any path prefix; shell/paths.ts finds its address.
  base: command === 'serve' ? '/console/' : './',
  server: {
    fs: { allow: ['..'] },
    // `npm run dev:console` beside `npm start`.
    proxy: { '^/(sendbatch\\.v1\\.|v1/|docs|openapi)': process.env.SENDBATCH_URL ?? 'http://127.0.0.1:5001' },
  },
  // A workbook's reader is loaded when the first workbook is opened.
  worker: { format: 'es', plugins: () => [workerLicenses('licenses-workers.md')] },
  build: {
    outDir: '../gen/console',
    emptyOutDir: true,
    // Promise.withResolvers of src/client and light-dark() of the styles; all from early 2024.
    target: ['chrome123', 'firefox121', 'safari17.5'],
    // One file of 3 kB gzipped: a style sheet that failed to load is not loaded again with its page.
    cssCodeSplit: false,
    // The Content-Security-Policy permits no data: scripts or styles.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    license: { fileName: 'licenses.md' },
  },
}));
