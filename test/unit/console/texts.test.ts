import assert from 'node:assert/strict';
import { globSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { reasonWords } from '../../../console/i18n/reasons.ts';
import type { Texts, Tree } from '../../../console/i18n/texts.ts';
import { translatorOf } from '../../../console/i18n/texts.ts';
import { advice } from '../../../scripts/reasons.ts';

const root = join(import.meta.dirname, '../../..');

/** The texts of a tree by their path. */
function flatten(tree: Tree, prefix = ''): [string, string][] {
  return Object.entries(tree).flatMap(([name, value]): [string, string][] =>
    typeof value === 'string' ? [[prefix + name, value]] : flatten(value, `${prefix}${name}.`),
  );
}

/** The arguments of an ICU message. */
function argumentsOf(text: string): string[] {
  return [...new Set([...text.matchAll(/\{(\w+)\s*[,}]/g)].map(([, name = '']) => name))].sort();
}

describe('the texts of the console', () => {
  const files = globSync('console/**/texts.ts', { cwd: root }).filter((file) => file !== 'console/i18n/texts.ts');

  test('every text has the same name in both languages, and no unknown argument, and can be shown', async () => {
    assert.ok(files.length >= 4, files.join());
    for (const file of files) {
      const module = (await import(join(root, file))) as Record<string, Texts<Tree>>;
      for (const texts of Object.values(module)) {
        if (typeof texts !== 'object' || !('en' in texts && 'zh' in texts)) continue;
        const [english, chinese] = [flatten(texts.en), flatten(texts.zh as Tree)];
        assert.deepEqual(chinese.map(([name]) => name).sort(), english.map(([name]) => name).sort(), file);
        const inChinese = new Map(chinese);
        for (const [name, text] of english) {
          const names = argumentsOf(text);
          // Chinese has no plural forms, so it may leave out what only chooses one.
          const unknown = argumentsOf(inChinese.get(name) ?? '').filter((each) => !names.includes(each));
          assert.deepEqual(unknown, [], `${file}: ${name}`);
          for (const language of ['en', 'zh'] as const) {
            const show = translatorOf(texts, language, 'UTC') as (name: string, values: object) => string;
            const shown = show(name, Object.fromEntries(names.map((each) => [each, 2])));
            // The translator shows the name of a text that it cannot read.
            assert.ok(shown !== name && (shown !== '' || text === ''), `${file}: ${name} in ${language}: ${shown}`);
          }
        }
      }
    }
  });

  test('every reason of the service has words in both languages', () => {
    assert.deepEqual(
      Object.keys(advice).filter((reason) => !Object.hasOwn(reasonWords, reason)),
      [],
    );
  });
});
