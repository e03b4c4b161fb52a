// Runs the commands of the documents and compares what they print with what the page says. With
// `UPDATE_DOCUMENTS=1` outputs that differ are written into the page instead.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const root = join(import.meta.dirname, '../..');
const isUpdate = process.env.UPDATE_DOCUMENTS === '1';

export interface Block {
  readonly language: string;
  readonly text: string;
}

export function readPage(page: string): string {
  return readFileSync(join(root, page), 'utf8');
}

/**
 * The fenced blocks of these languages: `sh` is run, `json` and `text` are its output. `bash` needs
 * programs or files of the reader.
 */
export function blocksOf(page: string, languages: readonly string[] = ['sh', 'json', 'text']): Block[] {
  return [...readPage(page).matchAll(fence)]
    .map(([, language = '', text = '']) => ({ language, text }))
    .filter(({ language }) => languages.includes(language));
}

const fence = /^```(\w+)\n(.*?)^```$/gms;

export interface RunOptions {
  /**
   * Replacements of texts in the documents, such as the service's address, by their values here.
   */
  readonly replace: Readonly<Record<string, string>>;
  readonly env: Readonly<Record<string, string>>;
  /** A file with the variables of the reader's shell. */
  readonly session: string;
}

/**
 * Runs each `sh` block of a page in order, and compares an output block with the output of the
 * command before it.
 */
export async function runPage(page: string, options: RunOptions): Promise<{ commands: number; answers: number }> {
  const counts = { commands: 0, answers: 0 };
  let answer = '';
  const updated: Block[] = [];
  for (const { language, text } of blocksOf(page)) {
    if (language === 'sh') {
      if (text.startsWith('npm ci')) continue;
      counts.commands++;
      answer = await run(text, options);
      continue;
    }
    counts.answers++;
    if (isUpdate) updated.push({ language, text: isSame(language, answer, text) ? text : written(language, answer) });
    else
      assert.deepEqual(
        plain(language, answer),
        plain(language, text),
        `${page}: UPDATE_DOCUMENTS=1 writes the outputs anew`,
      );
  }
  if (isUpdate) for (const each of [page, chineseOf(page)]) update(each, updated);
  return counts;
}

/**
 * Runs a command as a reader would paste it; it must succeed. Its variables are available to the
 * next one.
 */
export async function run(command: string, { replace, env, session }: RunOptions): Promise<string> {
  const there = Object.entries(replace).reduce(
    (text, [documented, here]) => text.replaceAll(documented, here),
    command,
  );
  const script = `set -a\n[ ! -e "$SESSION" ] || . "$SESSION"\n${there}\nstatus=$?\nexport -p > "$SESSION"\nexit $status`;
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  execFile(
    'sh',
    ['-c', script],
    { cwd: root, env: { ...process.env, NO_COLOR: '1', ...env, SESSION: session }, encoding: 'utf8', timeout: 120_000 },
    (error, stdout, stderr) =>
      error === null ? resolve(stdout) : reject(new Error(`${command}\n${stdout}\n${stderr}`, { cause: error })),
  );
  const output = await promise;
  return Object.entries(replace).reduce((text, [documented, here]) => text.replaceAll(here, documented), output);
}

const volatileKeys = new Set(['message_id', 'messageId', 'message_idstr', 'duration_ms', 'secret', 'next_page_token']);

function isSame(language: string, answer: string, text: string): boolean {
  try {
    assert.deepEqual(plain(language, answer), plain(language, text));
    return true;
  } catch {
    return false;
  }
}

/** The text without times, ids and secrets. */
function plain(language: string, text: string): unknown {
  if (language === 'json') return JSON.parse(plainText(text), (key, value) => (volatileKeys.has(key) ? key : value));
  return plainText(text)
    .replace(/("(?:message_id|seconds)": ?)[\d.]+/g, '$1#')
    .trimEnd();
}

function plainText(text: string): string {
  return text
    .replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)/g, 'then')
    .replace(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, 'uuid')
    .replace(/"(timestamp|created_at|updated_at)": ?\d{9,13}/g, '"$1": 0')
    .replace(/\b(sb_|whsec_)[\w+/=…-]+/g, '$1…');
}

/** The Chinese version of a page, with the same commands and outputs. */
export function chineseOf(page: string): string {
  return `docs/zh/${page.replace(/^docs\//, '')}`;
}

function update(page: string, outputs: readonly Block[]): void {
  if (!existsSync(join(root, page))) return;
  let index = 0;
  const text = readPage(page).replace(fence, (block, language: string) => {
    if (language !== 'json' && language !== 'text') return block;
    return `\`\`\`${language}\n${outputs[index++]?.text ?? ''}\`\`\``;
  });
  writeFileSync(join(root, page), text);
}

const columns = 100;

function written(language: string, answer: string): string {
  const shown = answer.replace(/\b(sb_|whsec_)[\w+/=-]{20,}/g, '$1…');
  return `${language === 'json' ? pretty(JSON.parse(shown), '') : shown.trimEnd()}\n`;
}

/** JSON on as few lines as fit. */
function pretty(value: unknown, indent: string): string {
  const line = inline(value);
  if (line.length + indent.length <= columns || typeof value !== 'object' || value === null) return line;
  const inner = `${indent}  `;
  const parts = Array.isArray(value)
    ? value.map((each) => pretty(each, inner))
    : Object.entries(value).map(([key, each]) => `${JSON.stringify(key)}: ${pretty(each, inner)}`);
  const [open, close] = Array.isArray(value) ? ['[', ']'] : ['{', '}'];
  return `${open}\n${parts.map((part) => inner + part).join(',\n')}\n${indent}${close}`;
}

function inline(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(inline).join(', ')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const parts = Object.entries(value).map(([key, each]) => `${JSON.stringify(key)}: ${inline(each)}`);
  return parts.length === 0 ? '{}' : `{ ${parts.join(', ')} }`;
}
