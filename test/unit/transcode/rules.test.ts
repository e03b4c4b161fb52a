import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { custom, get, post, type Rules, transcoder } from './schema.ts';

describe('an invalid rule is an error at startup', () => {
  const rows: [string, Rules, RegExp][] = [
    ['no pattern', { Echo: {} }, /has no get, put, post, delete, patch or custom/],
    ['a selector', { Echo: { selector: 'a.b', pattern: get('/a') } }, /selector has no meaning/],
    ['an empty path', { Echo: { pattern: get('') } }, /must start with \//],
    ['a relative path', { Echo: { pattern: get('a') } }, /must start with \//],
    ['the root alone', { Echo: { pattern: get('/') } }, /a segment is empty/],
    ['a trailing slash', { Echo: { pattern: get('/a/') } }, /a segment is empty/],
    ['a double slash', { Echo: { pattern: get('/a//b') } }, /a segment is empty/],
    ['a space', { Echo: { pattern: get('/a b') } }, /"a b" is not a segment/],
    ['a query', { Echo: { pattern: get('/a?b=c') } }, /is not a segment/],
    ['a bad percent-encoding', { Echo: { pattern: get('/a%2') } }, /is not a segment/],
    ['a percent-encoding that is no UTF-8', { Echo: { pattern: get('/a%ff') } }, /URI malformed/],
    ['** before the end', { Echo: { pattern: get('/**/a') } }, /\*\* must be the last/],
    ['a variable with ** before the end', { Echo: { pattern: get('/{text=**}/a') } }, /\*\* must be the last/],
    ['two **', { Echo: { pattern: get('/{text=a/**}/**') } }, /\*\* must be the last/],
    ['a variable in a variable', { Echo: { pattern: get('/{text={i32}}') } }, /do not nest/],
    ['an open brace', { Echo: { pattern: get('/{text') } }, /{ without }/],
    ['a closing brace', { Echo: { pattern: get('/text}') } }, /} without {/],
    ['a variable within a segment', { Echo: { pattern: get('/a-{text}') } }, /a variable is a whole segment/],
    ['two variables in a segment', { Echo: { pattern: get('/{text}{i32}') } }, /a variable is a whole segment/],
    ['an empty variable', { Echo: { pattern: get('/{}') } }, /"" is not a field path/],
    ['an empty pattern', { Echo: { pattern: get('/{text=}') } }, /a segment is empty/],
    ['a field path with an end missing', { Echo: { pattern: get('/{part.}') } }, /"part\." is not a field path/],
    ['an empty verb', { Echo: { pattern: get('/a:') } }, /"" is not a verb/],
    ['a verb in the middle', { Echo: { pattern: get('/a:b/c') } }, /"a:b" is not a segment/],
    ['an unknown path field', { Echo: { pattern: get('/{nope}') } }, /\{nope\}.*no such field/],
    ['an unknown nested path field', { Echo: { pattern: get('/{part.nope}') } }, /\{part\.nope\}.*no such field/],
    ['a field of a scalar', { Echo: { pattern: get('/{text.x}') } }, /\{text\.x\}.*no such field/],
    ['a field of a well-known type', { Echo: { pattern: get('/{at.seconds}') } }, /\{at\.seconds\}.*no such field/],
    ['a repeated path field', { Echo: { pattern: get('/{texts}') } }, /\{texts\} is repeated/],
    ['a field of a repeated one', { Echo: { pattern: get('/{parts.size}') } }, /\{parts\.size\}.*no such field/],
    ['a map in the path', { Echo: { pattern: get('/{by_text}') } }, /\{by_text\} is a map/],
    ['a message in the path', { Echo: { pattern: get('/{part}') } }, /\{part\} is a message/],
    ['a Struct in the path', { Echo: { pattern: get('/{structure}') } }, /\{structure\} is a message/],
    ['a field twice', { Echo: { pattern: get('/{text}/{text}') } }, /\{text\} is bound twice/],
    ['a field twice by both names', { Echo: { pattern: get('/{raw_bytes}/{rawBytes}') } }, /is bound twice/],
    ['a number of several segments', { Echo: { pattern: get('/{i32=a/*}') } }, /only a string can hold/],
    ['a number of **', { Echo: { pattern: get('/{i32=**}') } }, /only a string can hold/],
    ['a body that is no field', { Echo: { pattern: post('/a'), body: 'nope' } }, /body: .*has no field nope/],
    [
      'a body that is nested',
      { Echo: { pattern: post('/a'), body: 'part.inner' } },
      /body: .*has no field part\.inner/,
    ],
    ['a body by its JSON name', { Echo: { pattern: post('/a'), body: 'byText' } }, /body: .*has no field byText/],
    ['a body that the path binds', { Echo: { pattern: post('/{text}'), body: 'text' } }, /bound by the path and by/],
    ['a body of GET', { Echo: { pattern: get('/a'), body: '*' } }, /GET has no body/],
    ['a body of DELETE', { Echo: { pattern: { case: 'delete', value: '/a' }, body: 'part' } }, /DELETE has no body/],
    ['a body of HEAD', { Echo: { pattern: custom('HEAD', '/a'), body: '*' } }, /HEAD has no body/],
    [
      'a response_body that is no field',
      { Echo: { pattern: get('/a'), responseBody: '*' } },
      /response_body: .*no field \*/,
    ],
    ['a custom verb in lower case', { Echo: { pattern: custom('purge', '/a') } }, /"purge" is not an HTTP method/],
    ['a custom verb of nothing', { Echo: { pattern: custom('', '/a') } }, /"" is not an HTTP method/],
    ['a server stream', { Watch: { pattern: get('/a') } }, /server_streaming methods have no JSON route/],
    ['a client stream', { Upload: { pattern: post('/a'), body: '*' } }, /client_streaming methods have no JSON route/],
    [
      'nested additional_bindings',
      {
        Echo: {
          pattern: get('/a'),
          additionalBindings: [{ pattern: get('/b'), additionalBindings: [{ pattern: get('/c') }] }],
        },
      },
      /EchoService\/Echo GET \/b: additional_bindings do not nest/,
    ],
    ['the same route', { Echo: { pattern: get('/a') }, Other: { pattern: get('/a') } }, /same route GET \/a/],
    [
      'the same route by other variables',
      { Echo: { pattern: get('/a/{text}') }, Other: { pattern: get('/a/{i32}') } },
      /EchoService\/Other and .*EchoService\/Echo have the same route GET \/a\/\{i32\}/,
    ],
    ['a variable and a star', { Echo: { pattern: get('/{text=a/*}') }, Other: { pattern: get('/a/*') } }, /same route/],
    ['a literal and its encoding', { Echo: { pattern: get('/a') }, Other: { pattern: get('/%61') } }, /same route/],
    [
      'the same route of one method',
      { Echo: { pattern: get('/a'), additionalBindings: [{ pattern: get('/a') }] } },
      /same route/,
    ],
    [
      'the same JSON root',
      { Echo: { pattern: post('/a'), body: 'texts' }, Other: { pattern: post('/a'), body: 'parts' } },
      /no JSON root tells them apart/,
    ],
    [
      'a map beside an object',
      { Echo: { pattern: post('/a'), body: 'by_text' }, Other: { pattern: post('/a'), body: '*' } },
      /no JSON root tells them apart/,
    ],
    [
      'a scalar beside an array',
      { Echo: { pattern: post('/a'), body: 'text' }, Other: { pattern: post('/a'), body: 'parts' } },
      /no JSON root tells them apart/,
    ],
    [
      'no body beside an array',
      { Echo: { pattern: post('/a') }, Other: { pattern: post('/a'), body: 'parts' } },
      /no JSON root tells them apart/,
    ],
  ];
  for (const [what, rules, message] of rows) {
    test(`an invalid rule is an error at startup: ${what}`, () => {
      assert.throws(() => transcoder(rules), { message });
      assert.throws(
        () => transcoder(rules),
        /^Error: google\.api\.http:\n {2}sendbatch\.transcode\.test\.v1\.EchoService\//,
      );
    });
  }

  test('one message lists every invalid rule', () => {
    const rules: Rules = {
      Echo: { pattern: get('/{nope}'), additionalBindings: [{ pattern: post('/a'), body: 'nope' }] },
      Other: { pattern: get('bad') },
    };
    assert.throws(
      () => transcoder(rules),
      (error: Error) => {
        assert.deepEqual(
          error.message.split('\n').map((line) => line.replace(/.*EchoService/, '').replace(/:.*/, '')),
          ['google.api.http', '/Echo GET /{nope}', '/Echo POST /a', '/Other GET bad'].map((line) =>
            line.replace(/:.*/, ''),
          ),
        );
        return true;
      },
    );
  });
});

describe('a valid rule', () => {
  const rows: [string, Rules][] = [
    ['literal before variable', { Echo: { pattern: get('/a/b') }, Other: { pattern: get('/a/{text}') } }],
    ['another verb', { Echo: { pattern: get('/a') }, Other: { pattern: post('/a'), body: '*' } }],
    ['any verb beside one', { Echo: { pattern: custom('*', '/a'), body: '*' }, Other: { pattern: get('/a') } }],
    ['a :verb', { Echo: { pattern: get('/a') }, Other: { pattern: get('/a:b') } }],
    [
      'an array beside an object',
      { Echo: { pattern: post('/a'), body: 'parts' }, Other: { pattern: post('/a'), body: '*' } },
    ],
    [
      'a ListValue beside a Struct',
      { Echo: { pattern: post('/a'), body: 'list' }, Raw: { pattern: post('/a'), body: '*' } },
    ],
    ['a variable inside of the body', { Echo: { pattern: post('/{part.part_name=x/*}'), body: 'part' } }],
    ['an extension method', { Echo: { pattern: custom('M-SEARCH', '/a') } }],
    ['no rule at all', {}],
  ];
  for (const [what, rules] of rows) test(`a valid rule is accepted: ${what}`, () => void transcoder(rules));

  test('a valid rule is listed with all of its parts', () => {
    const { bindings } = transcoder({
      Echo: {
        pattern: post('/a/{part.size}:go'),
        body: 'parts',
        responseBody: 'text',
        additionalBindings: [{ pattern: get('/b') }],
      },
    });
    assert.deepEqual(
      bindings.map(({ method, verb, template, body, root, responseBody }) => [
        method.name,
        verb,
        template.text,
        body.kind === 'field' ? body.field.name : body.kind,
        root,
        responseBody?.name,
      ]),
      [
        ['Echo', 'POST', '/a/{part.size}:go', 'parts', 'array', 'text'],
        ['Echo', 'GET', '/b', 'none', 'none', undefined],
      ],
    );
  });
});
