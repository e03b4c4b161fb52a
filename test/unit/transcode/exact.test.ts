import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { create, type Message, toJson } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import fc from 'fast-check';
import { Faults } from '../../../src/transcode/error.ts';
import { JsonReader } from '../../../src/transcode/json-reader.ts';
import { parseJson } from '../../../src/transcode/json-text.ts';
import { losesDigits } from '../../../src/transcode/numbers.ts';
import { seedOf } from '../../support/seed.ts';
import { ask, get, registry, Thing, transcoder } from './schema.ts';

function read(text: string, anyCase = false): Message {
  const faults = new Faults();
  const reader = new JsonReader({ strictNumbers: true, strictFields: true, anyCase, registry });
  const message = reader.message(Thing, parseJson(Buffer.from(text)), undefined, faults);
  faults.settle();
  return message;
}

describe('a Timestamp in JSON', () => {
  const real = [
    '2028-02-29T12:00:00Z',
    '2000-02-29T00:00:00Z',
    '2027-12-31T23:59:59.999999999Z',
    '2027-01-31T12:00:00+14:00',
    '0001-01-01T00:00:00Z',
    '9999-12-31T23:59:59Z',
  ];
  const unreal = [
    '2027-02-29T12:00:00Z',
    '2100-02-29T12:00:00Z',
    '2027-02-30T12:00:00Z',
    '2027-04-31T12:00:00Z',
    '2027-00-10T12:00:00Z',
    '2027-13-10T12:00:00Z',
    '2027-01-00T12:00:00Z',
    '2027-01-32T12:00:00Z',
    '2027-01-01T24:00:00Z',
    '2027-01-01T24:00:01Z',
    '2027-01-01T23:60:00Z',
    '2016-12-31T23:59:60Z',
    '2027-01-01T12:00:00+24:00',
    '2027-01-01T12:00:00+01:60',
    '2027-01-01T12:00:00.1234567891Z',
    '2027-01-01T12:00:00',
    '2027-01-01',
    '0000-12-31T12:00:00Z',
  ];
  for (const text of real)
    test(`the Timestamp ${text} is accepted in a body and in a query`, async () => {
      read(JSON.stringify({ at: text }));
      const answer = await ask(
        transcoder({ Echo: { pattern: get('/a') } }),
        'GET',
        `/a?at=${encodeURIComponent(text)}`,
      );
      assert.equal(answer?.status, 200);
    });
  for (const text of unreal)
    test(`the Timestamp ${text} is refused in a body and in a query`, async () => {
      assert.throws(() => read(JSON.stringify({ at: text })), /^ConnectError: .*at: must be a valid time/);
      const answer = await ask(
        transcoder({ Echo: { pattern: get('/a') } }),
        'GET',
        `/a?at=${encodeURIComponent(text)}`,
      );
      assert.equal(answer?.status, 400);
      assert.match(answer?.json.message, /at: must be a valid time/);
    });

  test('every Timestamp is written as it was read', (context) => {
    const part = (most: number, digits: number) => fc.nat(most).map((each) => String(each).padStart(digits, '0'));
    const times = fc
      .tuple(part(9999, 4), part(14, 2), part(33, 2), part(25, 2), part(61, 2), part(61, 2))
      .map(([y, mo, d, h, mi, s]) => `${y}-${mo}-${d}T${h}:${mi}:${s}Z`);
    fc.assert(
      fc.property(times, (text) => {
        let message: Message;
        try {
          message = read(JSON.stringify({ at: text }));
        } catch {
          return;
        }
        assert.deepEqual(toJson(Thing, message as never), { at: text });
      }),
      { seed: seedOf(context), numRuns: 5000 },
    );
    const known = create(Thing, { at: timestampFromMs(0) } as never);
    assert.deepEqual(toJson(Thing, known), { at: '1970-01-01T00:00:00Z' });
  });
});

describe('a number in a Struct or a Value', () => {
  const rows: [text: string, fault: RegExp | undefined][] = [
    ['9007199254740991', undefined],
    ['-9007199254740991', undefined],
    ['9007199254740992', /above 2\^53/],
    ['9007199254740993', /above 2\^53/],
    ['-9007199254740993', /above 2\^53/],
    ['9007199254740993.0', /above 2\^53|more digits/],
    ['1e21', /above 2\^53/],
    ['1e400', /out of range/],
    ['1e-400', /more digits/],
    ['0.1', undefined],
    ['0.30000000000000004', undefined],
    ['1.7976931348623157e308', /above 2\^53/],
    ['5e-324', undefined],
    ['0.1234567890123456789', /more digits/],
    ['123456789012.34567', undefined],
    ['1234567890123.456789', /more digits/],
    ['3.141592653589793238', /more digits/],
    ['1.00000000000000000000', undefined],
    ['1e0', undefined],
    ['0.00000000000000000000', undefined],
    ['-0.0', undefined],
  ];
  for (const [text, fault] of rows)
    for (const [where, body, path] of [
      ['a Struct', `{"structure":{"a":{"b":[0,${text}]}}}`, 'structure.a.b[1]'],
      ['a Value', `{"value":[{"key with space":${text}}]}`, 'value[0]["key with space"]'],
    ] as const)
      test(`the number ${text} in ${where} is ${fault === undefined ? 'accepted' : 'refused'}`, () => {
        if (fault === undefined) return void read(body);
        assert.throws(
          () => read(body),
          (error: Error & { faults: { field: string; description: string }[] }) => {
            assert.equal(error.faults[0]?.field, path);
            assert.match(error.faults[0]?.description ?? '', fault);
            return true;
          },
        );
      });

  test('long numbers compare in linear time', () => {
    const began = performance.now();
    for (const text of [`1${'0'.repeat(1_000_000)}1`, `0.${'0'.repeat(1_000_000)}1`, `1e${'9'.repeat(1_000_000)}`])
      assert.equal(losesDigits(text), true);
    const many = `[${`1${'0'.repeat(900)}1,`.repeat(1000)}1]`;
    parseJson(Buffer.from(many));
    assert.ok(performance.now() - began < 1000);
  });

  test('a number loses digits exactly when its written form is another number', (context) => {
    const digits = fc.stringMatching(/^[0-9]{1,25}$/);
    fc.assert(
      fc.property(digits, digits, fc.integer({ min: -340, max: 320 }), (whole, fraction, power) => {
        const text = `${whole.replace(/^0+(?=.)/, '')}.${fraction}e${power}`;
        const value = Number(text);
        const exact = Number.isFinite(value) && isEqual(text, String(value));
        assert.equal(losesDigits(text), !exact, text);
      }),
      { seed: seedOf(context), numRuns: 3000 },
    );
  });
});

/** Whether two decimals are the same number, computed with whole numbers. */
function isEqual(a: string, b: string): boolean {
  const scaled = (text: string) => {
    const [mantissa = '', exponent = '0'] = text.split('e');
    const [whole = '', fraction = ''] = mantissa.split('.');
    return BigInt(whole + fraction) * 10n ** BigInt(Number(exponent) - fraction.length + 800);
  };
  return scaled(a) === scaled(b);
}

describe('a duplicate key', () => {
  const rows: [text: string, path: string][] = [
    ['{"text":"a","text":"b"}', 'text'],
    ['{"part":{"size":1,"inner":{"size":1,"size":2}}}', 'part.inner.size'],
    ['{"parts":[{},{"size":1},{"size":1,"s\\u0069ze":2}]}', 'parts[2].size'],
    ['{"structure":{"a b":1,"a b":2}}', 'structure["a b"]'],
    ['[[],[{"a":1,"a":1}]]', '[1][0].a'],
    [`{"${'k'.repeat(100)}":1,"${'k'.repeat(100)}":1}`, `["${'k'.repeat(64)}…"]`],
  ];
  for (const [text, path] of rows)
    test(`a duplicate key is refused at ${path}`, () => {
      assert.throws(
        () => parseJson(Buffer.from(text)),
        (error: Error & { faults: { field: string; description: string }[] }) => {
          assert.deepEqual(error.faults, [{ field: path, description: 'is repeated in one object' }]);
          return true;
        },
      );
    });

  test('paths in a body that is an array begin with the name of its field', () => {
    const text = Buffer.from('[{},{"a":1,"a":2}]');
    assert.throws(() => parseJson(text, { array: 'messages' }), /messages\[1\]\.a: is repeated/);
  });
});

describe('enum names in any case', () => {
  const rows: [text: string, expected: object | RegExp][] = [
    ['{"TEXT":"a","Raw_Bytes":"AA=="}', { text: 'a', rawBytes: 'AA==' }],
    ['{"Part":{"SIZE":1}}', { part: { size: 1 } }],
    ['{"RAWBYTES":"AA=="}', { rawBytes: 'AA==' }],
    ['{"text":"a","TEXT":"b"}', /text: is given twice, once as TEXT/],
    ['{"Text":"a","TEXT":"b"}', /text: is given twice, once as TEXT/],
    ['{"raw_bytes":"AA==","rawbytes":"AA=="}', /raw_bytes: is given twice/],
    ['{"TEXTS":"a"}', /texts: must be an array/],
    ['{"NOPE":"a"}', /NOPE: is not a field/],
    ['{"Text":null}', {}],
  ];
  for (const [text, expected] of rows)
    test(`an enum name in any case: ${text}`, () => {
      if (expected instanceof RegExp) assert.throws(() => read(text, true), expected);
      else assert.deepEqual(toJson(Thing, read(text, true) as never), expected);
    });
});
