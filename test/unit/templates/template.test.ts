import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { Liquid } from 'liquidjs';
import { parsePlainTemplate } from '../../../src/templates/plain-template.ts';
import { compileTemplate } from '../../../src/templates/template.ts';
import type { Variables } from '../../../src/templates/variables.ts';
import { seedOf } from '../../support/seed.ts';

const compiled = (body: string, format: 'text' | 'json' = 'text') => {
  const result = compileTemplate({ name: 't', body, format });
  assert.ok(!('fault' in result), JSON.stringify(result));
  return result;
};
const rendered = (body: string, variables: Variables, format: 'text' | 'json' = 'text') => {
  const result = compiled(body, format).render(variables);
  return 'refusal' in result
    ? `${result.refusal.reason}: ${result.refusal.message}`
    : Buffer.from(result.payload).toString();
};

describe('a template', () => {
  const rows: [string, Variables, string, ('text' | 'json')?][] = [
    ['Hello {{ name }}!', { name: 'Ann' }, 'Hello Ann!'],
    ['{{ user.name | upcase }}', { user: { name: 'ann' } }, 'ANN'],
    ['{% for each in list %}{{ each }},{% endfor %}', { list: [1, 2, 3] }, '1,2,3,'],
    ['{% if name %}{{ name }}{% else %}you{% endif %}', {}, 'you'],
    ['{{ name | default: "you" }}', {}, 'you'],
    ['{"text":"Hi {{ name }}"}', { name: 'A"\\\n' }, '{"text":"Hi A\\"\\\\\\n"}', 'json'],
    ['{"n":{{ n | raw }}}', { n: 5 }, '{"n":5}', 'json'],
    ['{"text":"{{ user }}"}', { user: { a: '"' } }, '{"text":"{\\"a\\":\\"\\\\\\"\\"}"}', 'json'],
  ];
  for (const [body, variables, expected, format] of rows)
    test(`${body} with ${JSON.stringify(variables)} renders as ${expected}`, () =>
      assert.equal(rendered(body, variables, format), expected));

  for (const body of [
    '{{ user }}',
    '{{ user | append: "!" }}',
    '{{ user | default: "you" }}',
    '{{ list }}',
    '{{ list | join: "," }}',
    '{% for each in list %}{{ each }}{% endfor %}',
    '{% capture text %}{{ user }}{% endcapture %}{{ text }}',
  ])
    test(`${body} is refused, because it would write [object Object]`, () => {
      const outcome = rendered(body, { user: { name: 'Ann' }, list: [{ a: 1 }] });
      assert.match(outcome, /^TEMPLATE_FAILED: .*an object cannot be written as a whole; name one of its members/);
    });

  test('integers above 2^53 in variables are refused at any depth', () => {
    for (const [body, variables, path] of [
      ['{{ n }}', { n: 2 ** 53 }, 'n'],
      ['{{ n | plus: 1 }}', { n: -(2 ** 53) }, 'n'],
      ['{{ a.b[1] }}', { a: { b: [1, 1e21] } }, 'a.b[1]'],
    ] as const)
      assert.equal(
        rendered(body, variables),
        `TEMPLATE_FAILED: template "t" cannot be rendered: ${path} is an integer above 2^53, which loses digits; give it as a string`,
      );
    assert.equal(rendered('{{ n }} {{ m }}', { n: Number.MAX_SAFE_INTEGER, m: 0.5 }), '9007199254740991 0.5');
  });

  test('integers above 2^53 in a template’s text or computed by it are refused', () => {
    for (const body of ['{{ 9007199254740993 }}', '{{ n | plus: 1 }}', '{% assign m = n | times: 10 %}{{ m }}'])
      assert.match(
        rendered(body, { n: Number.MAX_SAFE_INTEGER }),
        /^TEMPLATE_FAILED: .*above 2\^53 has lost digits/,
        body,
      );
    assert.equal(rendered('{{ "9007199254740993" }}', {}), '9007199254740993');
  });

  test('the error of a template names every missing variable', () => {
    assert.deepEqual(compiled('{{ b }} {{ a }} {{ b.c }}').variables(), ['a', 'b']);
    assert.equal(
      rendered('{{ a }} {{ b }} {{ c }}', { b: 1 }),
      'TEMPLATE_FAILED: template "t" needs variables that were not given: a, c',
    );
    assert.match(rendered('{{ user.name }}', { user: {} }), /^TEMPLATE_FAILED: .*user\.name/);
  });

  test('a template reaches no code, no prototype and no file', () => {
    for (const path of ['constructor', 'constructor.constructor', '__proto__', 'name.constructor', 'toString'])
      assert.match(rendered(`{{ ${path} }}`, { name: 'x' }), /^TEMPLATE_FAILED/, path);
    for (const body of [
      '{% include "/etc/passwd" %}',
      '{% render "x" %}',
      '{% layout "x" %}',
      '{{ a | nofilter }}',
      '{{ a',
      '{% for %}',
    ]) {
      const result = compileTemplate({ name: 't', body, format: 'text' });
      const outcome = 'fault' in result ? result.fault : JSON.stringify(result.render({ a: 1 }));
      assert.match(
        outcome,
        /not found|undefined filter|not closed|illegal|invalid|tag|TEMPLATE_FAILED/i,
        `${body}: ${outcome}`,
      );
    }
  });

  test('a template is bounded in time, memory and output', () => {
    const start = performance.now();
    for (const body of [
      '{% for i in (1..100000000) %}x{% endfor %}',
      '{% for i in (1..10000) %}{% for j in (1..10000) %}{{ i }}{% endfor %}{% endfor %}',
      '{% assign s = "xxxxxxxxxx" %}{% for i in (1..40) %}{% assign s = s | append: s %}{% endfor %}{{ s }}',
    ])
      assert.match(rendered(body, {}), /^(TEMPLATE_FAILED|PAYLOAD_TOO_LARGE)/, body);
    assert.ok(performance.now() - start < 5000);
    // Each would write at least 54 million characters.
    const a = 'x'.repeat(60_000);
    for (const body of [
      '{{ a }}'.repeat(900),
      `{% if a %}${'{{ a }}'.repeat(900)}{% endif %}`,
      '{% for i in (1..4000) %}{{ a }}{% endfor %}',
      `{% capture x %}${'{{ a }}'.repeat(900)}{% endcapture %}{{ x | size }}`,
      '{% for i in (1..12) %}{% capture x %}{{ x }}{{ x }}{{ a }}{% endcapture %}{% endfor %}{{ x | size }}',
      '{{ list }}',
    ])
      for (const format of ['text', 'json'] as const)
        assert.match(
          rendered(body, { a, x: '', list: Array.from({ length: 4000 }, () => a) }, format),
          /^(TEMPLATE_FAILED.*memory|PAYLOAD_TOO_LARGE)/,
          body.slice(0, 80),
        );
    assert.match(rendered('{{ a }}', { a: 'x'.repeat(65_537) }), /^PAYLOAD_TOO_LARGE/);
    assert.match(rendered('{{ a }}', { a: 'é'.repeat(32_769) }), /^PAYLOAD_TOO_LARGE.* 65538 bytes/);
    assert.match(rendered('{{ a }}', { a: '' }), /^TEMPLATE_FAILED/);
    assert.match(rendered('{"a":{{ a | raw }}}', { a: '}' }, 'json'), /^TEMPLATE_FAILED: .*not valid JSON/);
  });

  test('a template of text and bare names renders as liquidjs renders it', (context) => {
    const piece = fc.oneof(
      fc.constantFrom(
        '{{ a }}',
        '{{b}}',
        '{{ a}}',
        '{{ c }}',
        '{{ true }}',
        '{{ nil }}',
        '{{ a.b }}',
        '{{- a -}}',
        '{{ "x" }}',
        '{',
        '{{',
        '}}',
        '\n',
        '{% if a %}y{% endif %}',
      ),
      fc.string({ maxLength: 5 }),
    );
    const value = fc.oneof(
      fc.string(),
      fc.integer(),
      fc.double({ noNaN: true }),
      fc.boolean(),
      fc.constant(null),
      fc.constant([1, 'x']),
      fc.constant({ x: 1 }),
    );
    const given = fc.record({ a: value, b: value, c: value }, { requiredKeys: ['a'] });
    let compared = 0;
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 6 }), given, (pieces, variables) => {
        const body = pieces.join('');
        const plain = parsePlainTemplate(body, String)?.join(variables);
        if (plain === undefined) return;
        compared++;
        assert.equal(
          plain,
          new Liquid({ strictVariables: true, ownPropertyOnly: true }).parseAndRenderSync(body, variables),
        );
      }),
      { seed: seedOf(context), numRuns: 3000 },
    );
    assert.ok(compared > 300, String(compared));
  });

  test('a template with names within strings only renders JSON, whatever the values are', (context) => {
    const escaped = (value: unknown) => JSON.stringify(value).slice(1, -1);
    const piece = fc.constantFrom(
      '{',
      '}',
      '"',
      '"',
      '"',
      ':',
      ',',
      '\\',
      '\\u00',
      'a',
      '1',
      '[',
      ']',
      '{{ a }}',
      '{{ a }}',
    );
    let checked = 0;
    fc.assert(
      fc.property(
        fc.tuple(
          fc.constantFrom('"', '["', '{"a":"', ''),
          fc.array(piece, { maxLength: 6 }),
          fc.constantFrom('"', '"]', '"}', ''),
        ),
        fc.string({ unit: 'binary' }),
        ([before, pieces, after], a) => {
          const plain = parsePlainTemplate(before + pieces.join('') + after, escaped);
          if (!plain?.isInStrings) return;
          checked++;
          JSON.parse(plain.join({ a }) ?? '');
        },
      ),
      { seed: seedOf(context), numRuns: 5000 },
    );
    assert.ok(checked > 100, String(checked));
    assert.equal(parsePlainTemplate('{"n":{{ a }}}', escaped)?.isInStrings, false);
  });

  test('any text stays within its string in a JSON template', (context) => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        const given = text.toWellFormed();
        if (given === '') return;
        assert.deepEqual(JSON.parse(rendered('{"a":"{{ text }}"}', { text: given }, 'json')), { a: given });
      }),
      { seed: seedOf(context), numRuns: 500 },
    );
  });
});
