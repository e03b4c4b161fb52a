import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { limits } from '../../../src/limits.ts';
import { KeywordAutomaton } from '../../../src/moderation/keyword-automaton.ts';
import { extractTexts, foldText, originalSpans, stripInvisible } from '../../../src/moderation/payload-normalize.ts';
import { createModerator, measurePattern, type Rule } from '../../../src/moderation/rules.ts';
import { seedOf } from '../../support/seed.ts';

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

describe('matches of rules', () => {
  // Keywords, payload, and the masked payload; undefined: no match.
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
    test(`the keywords ${keywords.join(', ')} are masked where they occur in ${payload}`, () =>
      assert.equal(masked(keywords, payload), expected));

  test('patterns match in linear time', () => {
    assert.equal(masked([], 'call 13800138000 now', ['1[3-9]\\d{9}']), 'call *********** now');
    assert.equal(masked([], 'ABC', ['b']), 'A*C');
    const start = performance.now();
    judge([rule(1, 'refuse', [], { patterns: ['(a+)+$'] })], `${'a'.repeat(40_000)}b`);
    assert.ok(performance.now() - start < 5000);
  });

  test('a pattern is measured in instructions, and refused above limits.patternInstructions', () => {
    assert.deepEqual(measurePattern('a|b'), { instructions: 3 });
    assert.match(
      'fault' in measurePattern('(') ? JSON.stringify(measurePattern('(')) : '',
      /is not a valid RE2 pattern/,
    );
    assert.deepEqual(measurePattern('(((a{1,10}){1,10}){1,10})b'), {
      fault: `compiles to 2224 instructions, at most ${limits.patternInstructions} are allowed; use smaller repetitions`,
    });
  });

  // Invisible characters, and bytes that are not UTF-8.
  const hidden: [string, Uint8Array][] = [
    ...[
      '\ufeff',
      '\u200b',
      '\u00ad',
      '\u200d',
      '\u2060',
      '\u034f',
      '\u202e',
      '\ufe0f',
      '\u180e',
      '\u{e0041}',
      '\0',
      '\x7f',
      '\ufffd',
    ].map((each): [string, Uint8Array] => [`U+${each.codePointAt(0)?.toString(16)}`, Buffer.from(each)]),
    ['byte FF', Uint8Array.of(0xff)],
    ['a truncated sequence', Uint8Array.of(0xe6, 0x95)],
    ['a surrogate in UTF-8', Uint8Array.of(0xed, 0xa0, 0x80)],
    ['an overlong sequence', Uint8Array.of(0xc0, 0x80)],
  ];
  for (const [name, bytes] of hidden)
    test(`${name} within a word does not hide it, and stays outside of masked text`, () => {
      const join = (...parts: (string | Uint8Array)[]) =>
        Buffer.concat(parts.map((each) => (typeof each === 'string' ? Buffer.from(each) : each)));
      const rules = [rule(1, 'refuse', ['bad', '敏感']), rule(2, 'mask', ['word'], { patterns: ['\\bnumber \\d+'] })];
      const moderator = createModerator(rules);
      assert.ok(moderator);
      const judgeBytes = (payload: Buffer) => moderator({ channelType: 2, tagKey: '', payload });
      for (const payload of [
        join('a b', bytes, 'ad thing'),
        join(bytes, 'bad'),
        join('bad', bytes),
        join(bytes, '{"a":"b\\u0061d"}'),
        join('{"a":"b', bytes, 'ad"}'),
        join('{"a":"b\\u0061d"}', bytes),
        join('{"a":"敏', bytes, '感","b":1}'),
      ])
        assert.equal(judgeBytes(payload).refusedBy, 1, payload.toString());
      const masked = Buffer.from(
        judgeBytes(join('x', bytes, ' ', 'w', bytes, 'ord', ' number ', bytes, '12 ', bytes, 'y')).payload ?? [],
      );
      assert.ok(masked.subarray(0, bytes.length + 2).equals(join('x', bytes, ' ')), 'before');
      assert.ok(masked.subarray(-(bytes.length + 1)).equals(join(bytes, 'y')), 'behind');
      assert.match(masked.toString(), / \*+ \*+ /);
      assert.deepEqual(judgeBytes(join(bytes, 'good')), { flaggedBy: [] });
    });

  test('a BOM before JSON stays, and the text after it is read as JSON', () =>
    assert.equal(masked(['bad'], '\ufeff{"a":"b\\u0061d", "n": 1}'), '\ufeff{"a":"***", "n": 1}'));

  test('composed and decomposed forms of a character match each other', () => {
    assert.equal(masked(['각'], 'x\u1100\u1161\u11a8y'), 'x***y');
    assert.equal(masked(['각'], '가\u11a8'), '**');
    assert.equal(masked(['ガ'], 'ｶﾞ'), '**');
    assert.equal(masked(['ΟΔΟΣ'], 'οδος'), '****');
  });

  test('thousands of marks after one character take no more time than a few', () => {
    const start = performance.now();
    const marks = Buffer.from(`bad a${'\u0301\u0316'.repeat(16_000)} bad`);
    assert.equal(judge([rule(1, 'mask', ['bad'])], marks).masked?.replaceAll(/[\u0301\u0316]/g, ''), '*** a ***');
    // Normalized in one piece they would take 0.6 s.
    assert.ok(performance.now() - start < 500, `${performance.now() - start} ms`);
  });

  test('keywords that contain each other are masked in a text of nothing else', () => {
    const keywords = Array.from({ length: 128 }, (_, index) => '敏'.repeat(index + 1));
    assert.equal(masked(keywords, '敏'.repeat(20_000)), '*'.repeat(20_000));
  });

  test('a rule applies to its channel types and tags only', () => {
    const rules = [rule(1, 'refuse', ['bad'], { channelTypes: [2, 4], tagKeys: ['news'] })];
    const refused = (channelType: number, tagKey: string) => judge(rules, 'bad', { channelType, tagKey }).refusedBy;
    assert.deepEqual(
      [refused(2, 'news'), refused(4, 'news'), refused(1, 'news'), refused(2, '')],
      [1, 1, undefined, undefined],
    );
  });

  test('of several rules the first refusal counts, and all flags and masks', () => {
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

describe('keywords', () => {
  test('keywords are found exactly where a search for each one finds them', (context) => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'c', '敏'), minLength: 1, maxLength: 5 });
    fc.assert(
      fc.property(
        fc.uniqueArray(letters, { minLength: 1 }),
        fc.string({ unit: fc.constantFrom('a', 'b', 'c', '敏', 'x') }),
        (keywords, text) => {
          const found: string[] = [];
          new KeywordAutomaton(keywords).search(text, (keyword, begin, end) =>
            found.push(`${keyword} ${begin} ${end}`),
          );
          const expected = keywords.flatMap((keyword, index) =>
            Array.from(text, (_, begin) => begin)
              .filter((begin) => text.startsWith(keyword, begin))
              .map((begin) => `${index} ${begin} ${begin + keyword.length}`),
          );
          assert.deepEqual(found.sort(), expected.sort());
        },
      ),
      { seed: seedOf(context), numRuns: 2000 },
    );
  });

  test('keywords of a million characters compile within seconds and are found', () => {
    const keywords = Array.from({ length: 20_000 }, (_, index) => `${index}`.padStart(5, '0').repeat(10));
    const start = performance.now();
    const automaton = new KeywordAutomaton(keywords);
    assert.ok(performance.now() - start < 30_000);
    let found = 0;
    automaton.search(`x${keywords[19_999]}`, (keyword) => {
      found = keyword;
    });
    assert.equal(found, 19_999);
  });
});

describe('normalization of any text', () => {
  test('a text folds to its NFKC form in lower case, without invisible characters', (context) => {
    const unit = fc.oneof(
      fc.string({ unit: 'binary', minLength: 1, maxLength: 1 }),
      fc.constantFrom(
        'e',
        '\u0301',
        '\u0327',
        'ｶ',
        'ﾞ',
        '\u1100',
        '\u1161',
        '\u11a8',
        '가',
        'ㄱ',
        'ㅏ',
        '\u00ad',
        'ﬁ',
        'Å',
        'İ',
      ),
    );
    fc.assert(
      fc.property(fc.string({ unit }), (text) => {
        const expected = stripInvisible(text).normalize('NFKC').toLowerCase().replaceAll('ς', 'σ');
        assert.equal(foldText(text).folded, expected);
      }),
      { seed: seedOf(context), numRuns: 3000 },
    );
  });

  test('every folded unit has an original position, and original spans are whole characters', (context) => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.nat(), fc.nat(), (text, a, b) => {
        const folded = foldText(text);
        const { length } = folded.folded;
        if (length === 0) return;
        const begin = a % length;
        const end = begin + 1 + (b % (length - begin));
        for (const span of originalSpans(folded, begin, end)) {
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

  test('masked JSON is JSON of the same shape', (context) => {
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

  test('a payload without matches is returned unchanged', () => {
    const text = ' {"a" : 1.0, "b":"x"} ';
    assert.equal(Buffer.from(extractTexts(Buffer.from(text))?.mask([]) ?? []).toString(), text);
  });
});
