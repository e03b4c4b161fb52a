// Preloaded into the process of every test file (`npm test`): a file ends when its tests do. A test that fails before it has stopped its service would otherwise hold the whole run for good,
// and nobody would see what a stopped service leaves running.
import { after } from 'node:test';
import { isMainThread } from 'node:worker_threads';

/** From the end of the last test to the end of the process; the file's own `after` hooks, which come after this one, stop servers in it. */
const graceMs = Number(process.env.TEST_FILE_GRACE_MS ?? 60_000);
/** Of a whole file; the longest takes about a minute. */
const longestMs = 10 * 60_000;

// The runner itself loads this too, and so does each worker thread of a service.
if (isMainThread && process.env.NODE_TEST_CONTEXT !== undefined) {
  // No timer keeps the process: it strikes only where something else does.
  setTimeout(() => endNow(`not done after ${longestMs / 60_000} minutes`), longestMs).unref();
  after(() => {
    setTimeout(() => endNow(`still runs ${graceMs / 1000} s after its tests`), graceMs).unref();
  });
}

/** Fails the file, and names what kept it. */
function endNow(why: string): void {
  console.error(`${process.argv[1]}: ${why}; open: ${process.getActiveResourcesInfo().join(', ')}`);
  process.exit(1);
}

const running = new Set<() => void>();

/** What a test has started in another process ends with the file at the latest: `kill` is called when the file ends first. Returns how to take that back. */
export function endWithFile(kill: () => void): () => void {
  running.add(kill);
  return () => running.delete(kill);
}

process.on('exit', () => {
  for (const kill of running) kill();
});
