// Checks that each link of a Markdown file leads to a file of the repository and to a heading in
// it, and so does each URL of the repository's own pages in any file. Works offline: other URLs are
// not called. Run as a part of `npm run check`.
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import GithubSlugger from 'github-slugger';
import { fromMarkdown } from 'mdast-util-from-markdown';

type Node = ReturnType<typeof fromMarkdown> | ReturnType<typeof fromMarkdown>['children'][number];
interface Link {
  readonly line: number;
  readonly url: string;
}
interface Page {
  readonly links: readonly Link[];
  /** The anchors that `#…` may name. */
  readonly anchors: ReadonlySet<string>;
}

/**
 * The URL under which GitHub shows the repository's files: such a URL is checked like a link from
 * the root.
 */
const ownPages = 'https://github.com/sendbatch/sendbatch/blob/main/';

/** Returns one line per broken link in the given files, which are paths from `root`. */
export function findBrokenLinks(root: string, files: readonly string[]): string[] {
  const known = new Set(files.flatMap((file) => [file, ...foldersOf(file)]));
  const pages = new Map<string, Page>();
  const pageOf = (file: string): Page => {
    const page = pages.get(file) ?? parse(readFileSync(join(root, file), 'utf8'));
    pages.set(file, page);
    return page;
  };
  const why = (file: string, url: string): string | undefined => {
    const [path = '', anchor = ''] = decodeURIComponent(url).split('#', 2);
    const relative = path.startsWith('/') ? path.slice(1) : join(dirname(file), path);
    const target = path === '' ? file : normalize(relative).replace(/\/$/, '');
    if (!known.has(target)) return 'no such file';
    if (anchor === '' || !target.endsWith('.md')) return undefined;
    return pageOf(target).anchors.has(anchor) ? undefined : 'no such heading';
  };
  return files
    .filter((file) => existsSync(join(root, file)))
    .flatMap((file) => {
      const links = file.endsWith('.md') ? pageOf(file).links : ownUrls(readFileSync(join(root, file), 'utf8'));
      return links.flatMap(({ line, url }) => {
        const own = url.startsWith(ownPages) ? `/${url.slice(ownPages.length)}` : url;
        const problem = /^([a-z][a-z0-9+.-]*:|\/\/)/i.test(own) ? undefined : why(file, own);
        return problem === undefined ? [] : [`${file}:${line}: ${url}: ${problem}`];
      });
    });
}

function foldersOf(file: string): string[] {
  const folder = dirname(file);
  return folder === '.' ? ['.'] : [folder, ...foldersOf(folder)];
}

function parse(text: string): Page {
  const slugger = new GithubSlugger();
  const links: Link[] = [];
  const anchors = new Set<string>();
  const visit = (node: Node): void => {
    const line = node.position?.start.line ?? 0;
    if (node.type === 'heading') anchors.add(slugger.slug(textOf(node)));
    if (node.type === 'link' || node.type === 'image' || node.type === 'definition')
      links.push({ line, url: node.url });
    if (node.type === 'html') {
      for (const [, url = ''] of node.value.matchAll(/\b(?:href|src|srcset)="([^"]+)"/g)) links.push({ line, url });
      for (const [, id = ''] of node.value.matchAll(/\b(?:id|name)="([^"]+)"/g)) anchors.add(id);
    }
    if ('children' in node) for (const child of node.children) visit(child);
  };
  visit(fromMarkdown(text));
  return { links, anchors };
}

function textOf(node: Node): string {
  if ('value' in node) return node.value;
  return 'children' in node ? node.children.map(textOf).join('') : '';
}

function ownUrls(text: string): Link[] {
  return text.split('\n').flatMap((content, index) =>
    [...content.matchAll(/https:\/\/github\.com\/sendbatch\/sendbatch\/blob\/main\/[\w./#%-]+/g)].map(([url]) => ({
      line: index + 1,
      url,
    })),
  );
}

if (import.meta.main) {
  const root = join(import.meta.dirname, '..');
  const list = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', '-z'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  });
  const broken = findBrokenLinks(root, list.split('\0').filter(Boolean));
  for (const line of broken) console.error(line);
  process.exitCode = broken.length > 0 ? 1 : 0;
}
