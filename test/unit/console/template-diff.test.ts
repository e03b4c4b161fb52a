import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { diffLines } from '../../../console/templates/diff.ts';

const shown = (before: string, after: string) =>
  diffLines(before, after)
    .map(({ kind, text }) => ({ same: ' ', removed: '-', added: '+' })[kind] + text)
    .join('|');

describe('the comparison of two versions of a template', () => {
  test('lines that both versions have stand once, between what was removed and added', () => {
    assert.equal(shown('a\nb\nc', 'a\nx\nc'), ' a|-b|+x| c');
    assert.equal(shown('a\nb\nc\nd', 'b\nc\ne\nd'), '-a| b| c|+e| d');
    assert.equal(shown('', 'a'), '-|+a');
    assert.equal(shown('same\n', 'same\n'), ' same| ');
  });

  test('both versions can be read from their comparison', () => {
    const text = fc.array(fc.constantFrom('a', 'b', 'c', ''), { maxLength: 12 }).map((lines) => lines.join('\n'));
    fc.assert(
      fc.property(text, text, (before, after) => {
        const lines = diffLines(before, after);
        const without = (kind: string) => lines.filter((line) => line.kind !== kind).map((line) => line.text);
        assert.deepEqual(without('added'), before.split('\n'));
        assert.deepEqual(without('removed'), after.split('\n'));
      }),
    );
  });
});
