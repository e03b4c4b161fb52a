import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { plain, printable, safeJson, visible } from '../../../src/cli/output/output.ts';
import { safeLine, safePrettyLine } from '../../../src/observability/log-line.ts';

/** Control characters that a terminal obeys, except line ends and tabs. */
const obeyed = /[^\P{Cc}\n\t]|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/u;
const hostile = '\u001b]0;title\u0007 \u009b31m \u202eabc\u2066 \u2028 \u007f \r x';

/** Strings with many control characters. */
const text = fc.string({
  unit: fc.oneof(
    fc.constantFrom(...hostile, '\n', '\t', '"', '\\', 'u001b', '😀'),
    fc.string({ unit: 'grapheme', maxLength: 1 }),
  ),
});

describe('text from others', () => {
  test('text from others is printed without terminal control characters', () => {
    fc.assert(
      fc.property(text, (each) => {
        assert.doesNotMatch(visible(each), obeyed);
        assert.doesNotMatch(plain(each), /[\n\t]/);
        assert.doesNotMatch(printable(Buffer.from(each)), obeyed);
        const json = safeJson(JSON.stringify({ [each]: each }));
        assert.doesNotMatch(json, obeyed);
        assert.deepEqual(JSON.parse(json), { [each]: each });
      }),
    );
    assert.equal(plain('a\u001b[31m\tb\u009bc\u202ed'), 'a\\u001b[31m b\\u009bc\\u202ed');
    assert.equal(visible('Grüße 你好 👩‍👩‍👧\n\tx'), 'Grüße 你好 👩‍👩‍👧\n\tx');
  });

  test('text from others is logged without control characters: JSON keeps its value, plain text shows escapes', () => {
    fc.assert(
      fc.property(text, (each) => {
        const line = JSON.stringify({ msg: 'm', [each]: each });
        assert.doesNotMatch(safeLine(line), obeyed);
        assert.deepEqual(JSON.parse(safeLine(line)), JSON.parse(line));
        const [[key = '', value = ''] = []] = Object.entries(JSON.parse(safePrettyLine(line)) as object).slice(-1);
        assert.doesNotMatch(key + value, obeyed);
        if (!obeyed.test(each) && key !== 'msg') assert.equal(value, each);
      }),
    );
    for (const format of ['json', 'pretty']) {
      const events = JSON.stringify(join(import.meta.dirname, '../../../src/observability/log.ts'));
      const code = `const { createLogger } = await import(${events});
        createLogger({ level: 'info', format: '${format}' }).info({ path: ${JSON.stringify(hostile)} }, ${JSON.stringify(hostile)});`;
      const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', code], {
        encoding: 'utf8',
        env: { NO_COLOR: '1' },
      });
      assert.match(stdout, /\\u001b\]0;title.*\\u009b31m.*\\u202eabc/s);
      assert.doesNotMatch(stdout, obeyed);
    }
  });
});
