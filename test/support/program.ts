import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

const root = join(import.meta.dirname, '../..');
const folderVariable = 'TEST_PROGRAM';
const bundled = process.env[folderVariable];

/**
 * The program that tests start as processes: in a test run the bundle, which is what is published,
 * otherwise (`npm run chaos`) the source.
 */
export const main = bundled === undefined ? join(root, 'src/main.ts') : join(bundled, 'main.js');
/** Where Node keeps its compiled code: half the time of a start would be compiling it again. */
export const compiled = join(bundled ?? join(root, 'node_modules/.cache'), 'node-compile');

/** Bundles the service as `npm run build` does, for one test run. */
export function bundleProgram(): { readonly done: Promise<unknown>; remove(): void } {
  const parent = join(root, 'out');
  mkdirSync(parent, { recursive: true });
  const folder = mkdtempSync(join(parent, 'test-'));
  process.env[folderVariable] = folder;
  const done = promisify(execFile)(process.execPath, [join(root, 'scripts/bundle.ts'), folder]);
  // Reported where it is awaited, unless something else fails first.
  done.catch(() => {});
  return { done, remove: () => rmSync(folder, { recursive: true, force: true }) };
}
