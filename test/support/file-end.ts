// Preloaded into the process of every test file (`npm test`): a file ends when its tests do. A test
// that fails before it has stopped its service would otherwise hold the whole run, and processes
// left by a stopped service would go unnoticed.
import asyncHooks from 'node:async_hooks';
import { syncBuiltinESMExports } from 'node:module';
import { isMainThread } from 'node:worker_threads';

const isTestFile = isMainThread && process.env.NODE_TEST_CONTEXT !== undefined;

// Node's runner follows every promise, to name the test that left an unhandled rejection: 1.5 µs of
// CPU per promise instead of 0.05, which the services in this process paid too. Without it a
// rejection that nobody handles fails the file instead of its test.
if (isTestFile) {
  const { createHook } = asyncHooks;
  asyncHooks.createHook = (callbacks) => createHook({ ...callbacks, trackPromises: false });
  syncBuiltinESMExports();
  process.on('unhandledRejection', (reason) => {
    console.error('unhandled rejection:', reason);
    process.exitCode = 1;
  });
}

/**
 * From the end of the last test to the end of the process. The file's own `after` hooks run after
 * this one and stop servers in that time.
 */
const graceMs = Number(process.env.TEST_FILE_GRACE_MS ?? 60_000);
/** For a whole file; the longest takes about 1 min. */
const longestMs = 10 * 60_000;

// The runner itself loads this too, and so does each worker thread of a service.
if (isTestFile) {
  // Only now: the runner takes `createHook` when it is loaded. No `await`: files that import this
  // can be loaded by `require`.
  const { after } = process.getBuiltinModule('node:test');
  // The timer does not keep the process alive: it fires only where something else does.
  setTimeout(() => endNow(`not done after ${longestMs / 60_000} minutes`), longestMs).unref();
  after(() => {
    setTimeout(() => endNow(`still runs ${graceMs / 1000} s after its tests`), graceMs).unref();
  });
}

/** Fails the file and names what kept it alive. */
function endNow(why: string): void {
  console.error(`${process.argv[1]}: ${why}; open: ${process.getActiveResourcesInfo().join(', ')}`);
  process.exit(1);
}

const running = new Set<() => void>();

/**
 * Ends a process that a test started with the file at the latest: calls `kill` when the file ends
 * first. Returns how to cancel that.
 */
export function endWithFile(kill: () => void): () => void {
  running.add(kill);
  return () => running.delete(kill);
}

process.on('exit', () => {
  for (const kill of running) kill();
});
