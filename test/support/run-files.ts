import { createRequire } from 'node:module';
import { join } from 'node:path';
import { describe } from 'node:test';

const root = join(import.meta.dirname, '../..');
const load = createRequire(import.meta.url);

/**
 * Runs test files one after the other in this process, each as a suite named by its path within the
 * project. `env` is set before they are loaded, such as SHARDS. `require` evaluates a file at once,
 * so that its tests and hooks belong to that suite.
 */
export function runFiles(files: readonly string[], env: Readonly<Record<string, string>> = {}): void {
  Object.assign(process.env, env);
  for (const file of files)
    describe(file, () => {
      load(join(root, file));
    });
}
