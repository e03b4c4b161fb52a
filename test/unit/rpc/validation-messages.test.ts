import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { glob } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { violationMessage } from '../../../src/rpc/validation-messages.ts';

describe('the text of a violated rule', () => {
  const rows: [string, Parameters<typeof violationMessage>[0], string][] = [
    [
      'a pattern',
      { id: 'string.pattern', ownText: 'does not match regex pattern `^[^#&]*$`' },
      'must not contain # or &',
    ],
    [
      'a size',
      { id: 'bytes.max_len', ownText: 'must be at most 8 bytes', actual: 9 },
      'must be at most 8 bytes, not 9',
    ],
    [
      'an empty text',
      { id: 'string.min_bytes', ownText: 'must be at least 1 bytes' },
      'is required and must not be empty',
    ],
    ['a text too short', { id: 'string.min_bytes', ownText: 'must be at least 12 bytes' }, 'must be at least 12 bytes'],
    [
      'an empty list',
      { id: 'repeated.min_items', ownText: 'must contain at least 1 item(s)' },
      'must have at least one entry',
    ],
    [
      'a list',
      { id: 'repeated.max_items', ownText: 'must contain no more than 1000 item(s)', actual: 1001 },
      'must have at most 1000 entries, not 1001',
    ],
    [
      'an enum',
      {
        id: 'enum.defined_only',
        ownText: 'value must be one of the defined enum values',
        values: [
          { name: 'low', number: 1 },
          { name: 'high', number: 2 },
        ],
      },
      'must be one of 1 (low), 2 (high)',
    ],
    ['a rule without a text of its own', { id: 'uint32.lte', ownText: 'must be at most 7' }, 'must be at most 7'],
  ];
  for (const [what, rule, expected] of rows)
    test(`the text of a violated rule says what the field must be: ${what}`, () =>
      assert.equal(violationMessage(rule), expected));

  test('every pattern of the contract has a text without a regular expression', async () => {
    let count = 0;
    for await (const file of glob('proto/sendbatch/v1/*.proto'))
      for (const [, pattern] of readFileSync(file, 'utf8').matchAll(/\bpattern(?: =|:) "(.*)"/g)) {
        count++;
        const words = violationMessage({
          id: 'string.pattern',
          ownText: `does not match regex pattern \`${pattern}\``,
        });
        assert.match(words, /^must /, pattern);
        assert.doesNotMatch(words, /\^/);
      }
    assert.ok(count > 20);
  });
});
