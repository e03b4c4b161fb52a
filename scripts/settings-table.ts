// Writes the tables of settings in docs/reference/settings.md and docs/zh/reference/settings.md
// from src/config/settings.ts. Run by `npm run generate`; `--check` compares and changes nothing.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describeSettings, type SettingWords } from '../src/config/settings.ts';
import { report, table, writeSection } from './markdown.ts';

interface Language {
  readonly page: string;
  /** Texts of the table that belong to no setting: headings, "unset", value shapes. */
  word(english: string): string;
  doc(setting: SettingWords): string;
}

const chineseFile = 'scripts/settings.zh.json';
const chinese = JSON.parse(readFileSync(join(import.meta.dirname, '..', chineseFile), 'utf8')) as Record<
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
  { page: 'docs/reference/settings.md', word: (english) => english, doc: (setting) => setting.doc },
  {
    page: 'docs/zh/reference/settings.md',
    // Code and numbers are the same in every language.
    word: (english) => (/^[a-z ]+$/.test(english) ? translated('words', english) : english),
    doc: (setting) => translated('settings', setting.name),
  },
];

const settings = describeSettings();
const known = new Set(settings.map((setting) => setting.name));
for (const name of Object.keys(chinese.settings))
  if (!known.has(name)) faults.push(`${chineseFile}: "${name}" is no setting`);

const tables = languages.map(({ page, word, doc }) => ({
  page,
  text: table([
    ['name', 'default', 'bounds', 'meaning'].map(word),
    ...settings.map((setting) => [
      `\`${setting.name}\``,
      setting.default === '' ? word('unset') : `\`${setting.default}\``,
      word(setting.bounds),
      doc(setting),
    ]),
  ]),
}));
if (faults.length === 0) for (const { page, text } of tables) faults.push(...writeSection(page, 'settings', text));
report(faults);
