import { existsSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';

/**
 * Creates a folder and its parents. Node's recursive mkdir never ends below /proc, where the kernel
 * reports ENOENT.
 */
export function makeFolders(folder: string): void {
  if (existsSync(folder)) return;
  const above = dirname(folder);
  if (above !== folder) makeFolders(above);
  try {
    mkdirSync(folder, { mode: 0o755 });
  } catch (error) {
    // A concurrent start was faster.
    if (!existsSync(folder)) throw error;
  }
}
