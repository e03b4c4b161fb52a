import { existsSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';

/** Makes a folder and those above it. Node's own recursive mkdir never ends below /proc, where the kernel says that a part of the path is missing. */
export function makeFolders(folder: string): void {
  if (existsSync(folder)) return;
  const above = dirname(folder);
  if (above !== folder) makeFolders(above);
  try {
    mkdirSync(folder, { mode: 0o755 });
  } catch (error) {
    // Another start was faster.
    if (!existsSync(folder)) throw error;
  }
}
