import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { requestIdOf } from '../../../src/rpc/request-id.ts';

describe('Idempotency-Key', () => {
  const rows: [header: string, expected: string | undefined][] = [
    ['"8e03978e-40d5-43dd-bc93-6894a57f9324"', '8e03978e-40d5-43dd-bc93-6894a57f9324'],
    ['8e03978e-40d5-43dd-bc93-6894a57f9324', '8e03978e-40d5-43dd-bc93-6894a57f9324'],
    ['"a \\"quoted\\" word, and; more"', 'a "quoted" word, and; more'],
    ['"back\\\\slash"', 'back\\slash'],
    ['  "a"  ', 'a'],
    ['order:1/a=b', 'order:1/a=b'],
    ['"a', undefined],
    ['a"', undefined],
    ['"a"b', undefined],
    ['"a", "b"', undefined],
    ['a, b', undefined],
    ['a,b', undefined],
    ['a b', undefined],
    ['"a";v=1', undefined],
    ['a;v=1', undefined],
    ['"a\\n"', undefined],
    ['"\u00e9"', undefined],
    ['\u00e9', undefined],
    ['""', undefined],
    ['', undefined],
    [`"${'k'.repeat(120)}"`, 'k'.repeat(120)],
    [`"${'k'.repeat(121)}"`, undefined],
  ];
  for (const [header, expected] of rows)
    test(`the Idempotency-Key ${header.slice(0, 50)} is ${expected === undefined ? 'refused' : 'accepted'}`, () => {
      if (expected !== undefined) assert.equal(requestIdOf('', header), expected);
      else assert.throws(() => requestIdOf('', header), /Idempotency-Key/);
    });

  test('Idempotency-Key and request_id may both be set when they are equal', () => {
    assert.equal(requestIdOf('a', '"a"'), 'a');
    assert.equal(requestIdOf('a', null), 'a');
    assert.throws(() => requestIdOf('a', '"b"'), /request_id.*must equal/);
  });
});
