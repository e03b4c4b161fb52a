import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Plugin } from 'vite';

/** Writes the licenses of what workers bundle; Vite's own list has the page's only. */
export function workerLicenses(fileName: string): Plugin {
  return {
    name: 'worker-licenses',
    generateBundle(_options, bundle) {
      const texts = new Map<string, string>();
      for (const chunk of Object.values(bundle)) {
        if (chunk.type === 'asset') continue;
        for (const id of chunk.moduleIds) {
          const folder = packageOf(id);
          if (folder === undefined) continue;
          const { name, version, license } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
          texts.set(`${name} - ${version} (${license})`, licenseIn(folder));
        }
      }
      const entries = [...texts].sort(([a], [b]) => (a < b ? -1 : 1)).map(([title, text]) => `## ${title}\n\n${text}`);
      const source = `# Licenses of the workers\n\n${entries.join('\n').trimEnd()}\n`;
      this.emitFile({ type: 'asset', fileName, source });
    },
  };
}

/** The folder of a module's package; undefined for a file of this repository. */
function packageOf(id: string): string | undefined {
  if (id.startsWith('\0') || !id.includes('/node_modules/')) return undefined;
  for (let folder = dirname(id); folder.includes('/node_modules/'); folder = dirname(folder)) {
    const file = join(folder, 'package.json');
    // Folders within a package may have a package.json that only names the module type.
    if (existsSync(file) && 'version' in JSON.parse(readFileSync(file, 'utf8'))) return folder;
  }
  return undefined;
}

function licenseIn(folder: string): string {
  const file = readdirSync(folder).find((name) => /^(licen[cs]e|copying)/i.test(name));
  return file === undefined ? '' : `${readFileSync(join(folder, file), 'utf8').trim()}\n`;
}
