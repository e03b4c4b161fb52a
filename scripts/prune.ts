// Deletes from a folder with dist/ and node_modules/ what a run never reads: declarations, source
// maps, documentation, and modules that nothing in dist can load (the second module format of most
// packages). The Dockerfile runs it: node --experimental-import-meta-resolve scripts/prune.ts
// FOLDER
//
// It follows every string that names a relative file or an installed package, so it keeps too much
// rather than too little. Files of other kinds (JSON, licenses) stay.
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve, sep } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const [folder] = process.argv.slice(2);
if (folder === undefined) throw new Error('usage: prune.ts FOLDER');
const root = resolve(folder);
const modules = join(root, 'node_modules');

const isModule = (file: string) => /\.[cm]?js$/.test(file);
const isNeverRead = (file: string) => /\.([cm]?ts|map|md|flow)$/.test(file);
const isLegal = (file: string) => /\/(license|notice|copying)[^/]*$/i.test(file);

/**
 * A quoted specifier; its end is not consumed, since an apostrophe may precede the next one. A name
 * before a colon is a key, as in the manifests that the bundle contains.
 */
const quoted = /['"`](\.{1,2}(?:\/[\w@./-]*)?|[#@]?[a-z][\w@./-]*)(?=['"`](?!:))/g;

const installed = new Set(
  readdirSync(modules).flatMap((name) =>
    name.startsWith('@') ? readdirSync(join(modules, name)).map((part) => `${name}/${part}`) : [name],
  ),
);
const packageOf = (specifier: string) =>
  specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');

const reached = new Set(filesOf(join(root, 'dist')).filter(isModule));
// A Set also visits what is added while it is walked.
for (const file of reached) {
  if (!isModule(file)) continue;
  for (const [, specifier = ''] of readFileSync(file, 'utf8').matchAll(quoted))
    if (/^[.#]/.test(specifier) || installed.has(packageOf(specifier)))
      for (const found of candidates(specifier, file)) reached.add(found);
}

let kept = 0;
for (const file of [...filesOf(join(root, 'dist')), ...filesOf(modules)]) {
  if (!isLegal(file) && (isNeverRead(file) || (isModule(file) && !reached.has(file)))) rmSync(file);
  else kept += statSync(file).size;
}
console.log(`prune: ${(kept / 1e6).toFixed(1)} MB kept`);

function filesOf(of: string): string[] {
  return readdirSync(of, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** The files that a specifier names for `import` and for `require`; none when it names neither. */
function candidates(specifier: string, from: string): string[] {
  const resolvers = [
    () => fileURLToPath(import.meta.resolve(specifier, pathToFileURL(from))),
    () => createRequire(from).resolve(specifier),
  ];
  return resolvers.flatMap((find) => {
    try {
      const file = find();
      return file.startsWith(root + sep) && existsSync(file) && statSync(file).isFile() ? [file] : [];
    } catch {
      return [];
    }
  });
}
