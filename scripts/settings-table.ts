// Writes the tables of settings in README.md and README.zh-CN.md from src/config/settings.ts. Run as `npm run generate`; `--check` compares
// and changes nothing.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describeSettings, type SettingWords } from '../src/config/settings.ts';

const root = join(import.meta.dirname, '..');
const begin = '<!-- settings: made by npm run generate -->';
const end = '<!-- /settings -->';

interface Language {
  readonly page: string;
  /** A word of the table that is no setting's own: a heading, "unset", a shape. */
  word(english: string): string;
  doc(setting: SettingWords): string;
}

const chineseFile = 'scripts/settings.zh.json';
const chinese = JSON.parse(readFileSync(join(root, chineseFile), 'utf8')) as Record<
  'words' | 'settings',
  Record<string, string>
>;
const faults: string[] = [];
const translated = (kind: 'words' | 'settings', name: string): string => {
  const text = chinese[kind][name];
  if (text === undefined) faults.push(`${chineseFile}: "${kind}" misses "${name}"`);
  return text ?? '';
};

const languages: readonly Language[] = [
  { page: 'README.md', word: (english) => english, doc: (setting) => setting.doc },
  {
    page: 'README.zh-CN.md',
    // What is code or a number reads the same everywhere.
    word: (english) => (/^[a-z ]+$/.test(english) ? translated('words', english) : english),
    doc: (setting) => translated('settings', setting.name),
  },
];

const settings = describeSettings();
const known = new Set(settings.map((setting) => setting.name));
for (const name of Object.keys(chinese.settings))
  if (!known.has(name)) faults.push(`${chineseFile}: "${name}" is no setting`);

const check = process.argv.includes('--check');
for (const language of languages) {
  const path = join(root, language.page);
  const text = readFileSync(path, 'utf8');
  const [before, rest] = text.split(begin, 2);
  const after = rest?.split(end, 2)[1];
  if (before === undefined || after === undefined) {
    faults.push(`${language.page}: the marks ${begin} and ${end} are missing`);
    continue;
  }
  const current = `${before}${begin}\n\n${tableIn(language)}\n\n${end}${after}`;
  if (current === text) continue;
  if (check) faults.push(`${language.page}: its settings are not those of src/config/settings.ts: npm run generate`);
  else if (faults.length === 0) writeFileSync(path, current);
}
for (const fault of faults) console.error(fault);
if (faults.length > 0) process.exitCode = 1;

function tableIn({ word, doc }: Language): string {
  const head = ['name', 'default', 'bounds', 'meaning'].map(word);
  const rows = settings.map((setting) => [
    `\`${setting.name}\``,
    setting.default === '' ? word('unset') : `\`${setting.default}\``,
    word(setting.bounds),
    doc(setting),
  ]);
  const widths = head.map((_, column) => Math.max(...[head, ...rows].map((row) => widthOf(row[column] ?? ''))));
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell, column) => cell + ' '.repeat((widths[column] ?? 0) - widthOf(cell))).join(' | ')} |`;
  return [line(head), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join('\n');
}

/** Columns of a terminal: Chinese signs take two. */
function widthOf(text: string): number {
  return [...text].reduce(
    (sum, sign) => sum + (/[\u1100-\u115f\u2e80-\ua4cf\uf900-\ufaff\uff00-\uff60]/.test(sign) ? 2 : 1),
    0,
  );
}
