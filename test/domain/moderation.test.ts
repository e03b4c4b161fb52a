import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { createModerator, patternFault, type Rule } from '../../src/domain/moderation.ts';
import { foldText, spansOfText, textsOf } from '../../src/domain/payload-text.ts';
import { seedOf } from '../support/seed.ts';

const rule = (ruleId: number, action: Rule['action'], keywords: string[], more: Partial<Rule> = {}): Rule => ({
  ruleId,
  action,
  keywords,
  patterns: [],
  channelTypes: [],
  tagKeys: [],
  note: '',
  ...more,
});
const judge = (rules: Rule[], payload: string | Uint8Array, more: { channelType?: number; tagKey?: string } = {}) => {
  const moderator = createModerator(rules);
  assert.ok(moderator);
  const bytes = typeof payload === 'string' ? Buffer.from(payload) : payload;
  const { refusedBy, payload: masked, flaggedBy } = moderator({ channelType: 2, tagKey: '', payload: bytes, ...more });
  return { refusedBy, masked: masked && Buffer.from(masked).toString(), flaggedBy };
};
const masked = (keywords: string[], payload: string, patterns: string[] = []) =>
  judge([rule(1, 'mask', keywords, { patterns })], payload).masked;

describe('what is found', () => {
  // keywords, payload, what is left of it; undefined: nothing matched.
  const rows: [string[], string, string | undefined][] = [
    [['bad'], 'a bad word', 'a *** word'],
    [['bad'], 'a BAD word', 'a *** word'],
    [['bad'], 'badly, forbad', undefined],
    [['bad word'], 'a bad word!', 'a ********!'],
    [['bad'], 'bad', '***'],
    [['bad'], '很bad的', '很***的'],
    [['bad'], 'ｂａｄ and Ｂad', '*** and ***'],
    [['敏感'], '这是敏感词', '这是**词'],
    [['敏感', '感词'], '这是敏感词', '这是***'],
    [['ﬁx'], 'a fix', 'a ***'],
    [['fix'], 'a ﬁx!', 'a **!'],
    [['é'], 'e\u0301!', '**!'],
    [['😀'], 'x😀😀', 'x**'],
    [
      ['bad'],
      '{"type":1,"content":"a bad one","n":12345678901234567890,  "bad":"x"}',
      '{"type":1,"content":"a *** one","n":12345678901234567890,  "bad":"x"}',
    ],
    [['"bad"'], '{"a":"say \\"bad\\" \\u00e9"}', '{"a":"say ***** é"}'],
    [['bad'], '["b\\u0061d",{"x":["bad"]}]', '["***",{"x":["***"]}]'],
    [['bad'], '{"a": bad}', '{"a": ***}'],
    [['good'], '{"a":"bad"}', undefined],
  ];
  for (const [keywords, payload, expected] of rows)
    test(`${keywords.join(', ')} in ${payload}`, () => assert.equal(masked(keywords, payload), expected));

  test('patterns, in linear time', () => {
    assert.equal(masked([], 'call 13800138000 now', ['1[3-9]\\d{9}']), 'call *********** now');
    assert.equal(masked([], 'ABC', ['b']), 'A*C');
    const start = performance.now();
    judge([rule(1, 'refuse', [], { patterns: ['(a+)+$'] })], `${'a'.repeat(40_000)}b`);
    assert.ok(performance.now() - start < 5000);
    assert.match(patternFault('(') ?? '', /./);
    assert.equal(patternFault('a|b'), undefined);
  });

  test('what is no text is let through', () => {
    assert.deepEqual(judge([rule(1, 'refuse', ['bad'])], Buffer.from([0xff, 0x62, 0x61, 0x64])), {
      refusedBy: undefined,
      masked: undefined,
      flaggedBy: [],
    });
  });

  test('by channel type and tag', () => {
    const rules = [rule(1, 'refuse', ['bad'], { channelTypes: [2, 4], tagKeys: ['news'] })];
    const refused = (channelType: number, tagKey: string) => judge(rules, 'bad', { channelType, tagKey }).refusedBy;
    assert.deepEqual(
      [refused(2, 'news'), refused(4, 'news'), refused(1, 'news'), refused(2, '')],
      [1, 1, undefined, undefined],
    );
  });

  test('several rules: the first that refuses, all that flag, all that mask', () => {
    const rules = [
      rule(1, 'flag', ['one']),
      rule(2, 'mask', ['two']),
      rule(3, 'refuse', ['three']),
      rule(4, 'refuse', ['three']),
      rule(5, 'flag', ['one', 'two']),
    ];
    assert.deepEqual(judge(rules, 'one two'), { refusedBy: undefined, masked: 'one ***', flaggedBy: [1, 5] });
    assert.equal(judge(rules, 'three').refusedBy, 3);
  });
});

describe('any text', () => {
  test('folds with a place for every unit, and its pieces are whole characters', (context) => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.nat(), fc.nat(), (text, a, b) => {
        const folded = foldText(text);
        const { length } = folded.folded;
        if (length === 0) return;
        const begin = a % length;
        const end = begin + 1 + (b % (length - begin));
        for (const span of spansOfText(folded, begin, end)) {
          assert.ok(span.begin >= 0 && span.begin < span.end && span.end <= text.length);
          for (const edge of [span.begin, span.end]) {
            const code = text.charCodeAt(edge);
            const before = text.charCodeAt(edge - 1);
            assert.ok(
              !(code >= 0xdc00 && code < 0xe000 && before >= 0xd800 && before < 0xdc00),
              'a surrogate pair is cut',
            );
          }
        }
      }),
      { seed: seedOf(context), numRuns: 2000 },
    );
  });

  test('in JSON, masked, is JSON of the same shape', (context) => {
    const moderator = createModerator([rule(1, 'mask', ['a', 'b', '"', '\\', '敏'], { patterns: ['[0-9]'] })]);
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        const text = JSON.stringify(value);
        const judged = moderator?.({ channelType: 2, tagKey: '', payload: Buffer.from(text) });
        if (!/^[[{"]/.test(text)) return;
        const after = JSON.parse(Buffer.from(judged?.payload ?? Buffer.from(text)).toString());
        const shape = (each: unknown): unknown =>
          typeof each === 'string'
            ? 'string'
            : Array.isArray(each)
              ? each.map(shape)
              : typeof each === 'object' && each !== null
                ? Object.fromEntries(Object.entries(each).map(([key, inner]) => [key, shape(inner)]))
                : each;
        assert.deepEqual(shape(after), shape(JSON.parse(text)));
      }),
      { seed: seedOf(context), numRuns: 500 },
    );
  });

  test('is given back as it is when nothing is masked', () => {
    const text = ' {"a" : 1.0, "b":"x"} ';
    assert.equal(Buffer.from(textsOf(Buffer.from(text))?.masked([]) ?? []).toString(), text);
  });
});
