import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { ask, custom, echoes, get, type Pattern, post, type Rules, transcoder } from './schema.ts';

const put = (path: string): Pattern => ({ case: 'put', value: path });
const patch = (path: string): Pattern => ({ case: 'patch', value: path });
const remove = (path: string): Pattern => ({ case: 'delete', value: path });

/** The method that answers, in the header `took`. */
function named(rules: Rules) {
  return transcoder(rules, { answer: ({ method }) => ({ headers: { took: method.name } }) });
}

describe('the path of a template', () => {
  const rows: [template: string, path: string, answer: object | number | undefined][] = [
    ['/a/b', '/a/b', {}],
    ['/a/b', '/a/b?', {}],
    ['/a/b', '/a', undefined],
    ['/a/b', '/a/b/', undefined],
    ['/a/b', '/a//b', undefined],
    ['/a/b', '//a/b', undefined],
    ['/a/b', '/a/x/../b', undefined],
    ['/a/b', '/A/b', undefined],
    ['/a/b', '/%61/b', {}],
    ['/a%2Fb', '/a%2fb', {}],
    ['/a%2Fb', '/a/b', undefined],
    ['/*/b', '/x/b', {}],
    ['/*/b', '//b', undefined],
    ['/a/**', '/a', {}],
    ['/a/**', '/a/', {}],
    ['/a/**', '/a/b/c', {}],
    ['/a/{text}', '/a/x', { text: 'x' }],
    ['/a/{text}', '/a/', undefined],
    ['/a/{text}', '/a/x/y', undefined],
    ['/a/{text}', '/a/x%2Fy%20%C3%A9+%3F', { text: 'x/y é+?' }],
    ['/a/{text}', '/a/..', { text: '..' }],
    ['/a/{text}', '/a/x:y', { text: 'x:y' }],
    ['/a/{text}', '/a/%zz', 400],
    ['/a/{text}', '/a/%', 400],
    ['/a/{text}', '/a/%ff', 400],
    ['/a/{text}', '/b/%ff', undefined],
    ['/a/*', '/a/%ff', 400],
    ['/a/{text=**}', '/a/b/%ff', 400],
    ['/a/{text=**}', '/a/%ff/b', 400],
    ['/{text=a/*}/c', '/a/b/c', { text: 'a/b' }],
    ['/{text=a/*}/c', '/b/b/c', undefined],
    ['/{text=a/*}', '/a/x%2Fy%2fz%20', { text: 'a/x%2Fy%2fz ' }],
    ['/{text=a/**}', '/a', { text: 'a' }],
    ['/{text=a/**}', '/a/b//c/', { text: 'a/b//c/' }],
    ['/{text=a/**}', '/a/%2f%41', { text: 'a/%2fA' }],
    ['/{text=**}', '/x', { text: 'x' }],
    ['/v/{text=**}', '/v', {}],
    ['/{text=a}', '/a', { text: 'a' }],
    ['/{text=a/*}/{part.part_name=b/*}', '/a/1/b/2', { text: 'a/1', part: { part_name: 'b/2' } }],
    ['/a/{text}:go', '/a/x:go', { text: 'x' }],
    ['/a/{text}:go', '/a/x%3Ago', undefined],
    ['/a/{text}:go', '/a/x:g%6f', { text: 'x' }],
    ['/a/{text}:go', '/a/x:y:go', { text: 'x:y' }],
    ['/a/{text}:go', '/a/x', undefined],
    ['/a/{text}:go', '/a/:go', undefined],
    ['/a/{text}:go', '/a/x:%ff', undefined],
    ['/{text=a/**}:go', '/a/b/c:go', { text: 'a/b/c' }],
    ['/a:b-c', '/a:b-c', {}],
    ['/{part.part_name}', '/x', { part: { part_name: 'x' } }],
    ['/{part.inner.inner.size}', '/7', { part: { inner: { inner: { size: 7 } } } }],
    ['/{choice_part.part_name}', '/x', { choice_part: { part_name: 'x' } }],
    ['/{choice_wrapped}', '/7', { choice_wrapped: 7 }],
    ['/{mode}', '/atomic', { mode: 'SEND_MODE_ATOMIC' }],
    ['/{mode}', '/2', { mode: 'SEND_MODE_BEST_EFFORT' }],
    ['/{mode}', '/nope', 400],
    ['/{flag}', '/true', { flag: true }],
    ['/{flag}', '/0', {}],
    ['/{flag}', '/yes', 400],
    ['/{i32}', '/-2147483648', { i32: -2147483648 }],
    ['/{i32}', '/2147483648', 400],
    ['/{u64}', '/18446744073709551615', { u64: 18446744073709551615n }],
    ['/{u64}', '/-1', 400],
    ['/{i32}', '/1.5', 400],
    ['/{real}', '/-1.5e3', { real: -1500 }],
    ['/{real}', '/.5', 400],
    ['/{raw_bytes}', '/_-8=', { raw_bytes: '/+8=' }],
    ['/{raw_bytes}', '/!', 400],
    ['/{digits}', '/18446744073709551615', { digits: 18446744073709551615n }],
    ['/{maybe_number}', '/0', { maybe_number: 0 }],
    ['/{wrapped_text=a/*}', '/a/b', { wrapped_text: 'a/b' }],
    ['/{wrapped_i64}', '/5', { wrapped_i64: 5 }],
    ['/{at}', '/2020-01-01T00:00:00Z', { at: '2020-01-01T00:00:00Z' }],
    ['/{at}', '/today', 400],
    ['/{rawBytes}', '/AA==', { raw_bytes: 'AA==' }],
  ];
  for (const [template, path, expected] of rows) {
    test(`the template ${template} with the path ${path}`, async () => {
      const answer = await ask(transcoder({ Echo: { pattern: get(template) } }), 'GET', path);
      if (expected === undefined) return assert.equal(answer, undefined);
      assert.ok(answer !== undefined);
      if (typeof expected === 'number') return assert.equal(answer.status, expected);
      assert.equal(answer.status, 200, answer.text);
      const text = JSON.stringify(expected, (_, value) => (typeof value === 'bigint' ? `#${value}#` : value));
      assert.equal(answer.text, text.replace(/"#|#"/g, ''));
    });
  }

  test('an invalid path field is reported by its name', async () => {
    const answer = await ask(transcoder({ Echo: { pattern: get('/{part.size}') } }), 'GET', '/x');
    assert.equal(answer?.json.details[0].fieldViolations[0].field, 'part.size');
  });

  test('a URL may be relative', async () => {
    const { handle } = transcoder({ Echo: { pattern: get('/a/{text}') } });
    const answer = await handle({
      httpVersion: '2.0',
      method: 'GET',
      url: '/a/b?i32=1#x',
      header: new Headers(),
      body: null,
      signal: new AbortController().signal,
    });
    assert.equal(answer?.status, 200);
  });
});

describe('the choice among several templates', () => {
  const rules: Rules = {
    Echo: {
      pattern: get('/users/me'),
      additionalBindings: [
        { pattern: get('/users/me/b/c') },
        { pattern: get('/x/{text}:go') },
        { pattern: get('/x/**') },
      ],
    },
    Other: {
      pattern: get('/users/{text}'),
      additionalBindings: [
        { pattern: remove('/users/{text}') },
        { pattern: get('/users/{text}/b/d') },
        { pattern: get('/x/{text}') },
      ],
    },
    Third: { pattern: get('/users/**'), additionalBindings: [{ pattern: get('/**') }, { pattern: get('/x/**:go') }] },
  };
  const rows: [string, string, string][] = [
    ['GET', '/users/me', 'Echo'],
    ['GET', '/users/you', 'Other'],
    ['DELETE', '/users/me', 'Other'],
    ['GET', '/users/me/b/c', 'Echo'],
    ['GET', '/users/me/b/d', 'Other'],
    ['GET', '/users/me/b/e', 'Third'],
    ['GET', '/users', 'Third'],
    ['GET', '/', 'Third'],
    ['GET', '/x/1:go', 'Echo'],
    ['GET', '/x/1/2:go', 'Third'],
    ['GET', '/x/1', 'Other'],
    ['GET', '/x/1/2', 'Echo'],
  ];
  for (const [verb, path, method] of rows)
    test(`${verb} ${path} is routed to ${method}`, async () => {
      assert.equal((await ask(named(rules), verb, path))?.header.get('took'), method);
    });
});

describe('HTTP verbs', () => {
  const rules: Rules = {
    Echo: {
      pattern: get('/get'),
      additionalBindings: [
        { pattern: put('/put'), body: '*' },
        { pattern: post('/post'), body: '*' },
        { pattern: remove('/delete') },
        { pattern: patch('/patch'), body: '*' },
        { pattern: custom('PURGE', '/custom') },
        { pattern: custom('HEAD', '/head') },
        { pattern: custom('OPTIONS', '/options') },
        { pattern: custom('*', '/any') },
        { pattern: custom('*', '/some'), body: '*' },
      ],
    },
    Other: { pattern: get('/some') },
  };
  for (const verb of ['GET', 'PUT', 'POST', 'DELETE', 'PATCH', 'HEAD', 'OPTIONS'])
    test(`${verb} is routed to the method that binds it`, async () => {
      assert.equal((await ask(named(rules), verb, `/${verb.toLowerCase()}`))?.header.get('took'), 'Echo');
    });
  const rows: [verb: string, path: string, status: number, allow?: string][] = [
    ['PURGE', '/custom', 200],
    ['PURGE', '/any', 200],
    ['HEAD', '/any', 200],
    ['HEAD', '/get', 200],
    ['GET', '/custom', 405, 'OPTIONS, PURGE'],
    ['get', '/get', 405, 'GET, HEAD, OPTIONS'],
    ['POST', '/get', 405, 'GET, HEAD, OPTIONS'],
    ['GET', '/head', 405, 'HEAD, OPTIONS'],
    ['HEAD', '/post', 405, 'OPTIONS, POST'],
    ['OPTIONS', '/get', 204, 'GET, HEAD, OPTIONS'],
    ['OPTIONS', '/any', 204, 'DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT'],
  ];
  for (const [verb, path, status, allow] of rows)
    test(`${verb} ${path} is answered with ${status} ${allow ?? ''}`, async () => {
      const answer = await ask(named(rules), verb, path);
      assert.equal(answer?.status, status);
      assert.equal(answer?.header.get('allow') ?? undefined, allow);
      if (status === 405 && verb !== 'HEAD') assert.match(answer?.json.message, /is not allowed on this path/);
    });

  test('a binding of one verb wins over a binding of any verb', async () => {
    const { handle } = named(rules);
    assert.ok(handle);
    assert.equal((await ask(named(rules), 'GET', '/some'))?.header.get('took'), 'Other');
    assert.equal((await ask(named(rules), 'HEAD', '/some'))?.header.get('took'), 'Other');
    assert.equal((await ask(named(rules), 'POST', '/some'))?.header.get('took'), 'Echo');
  });

  test('HEAD returns the headers of GET and no body', async () => {
    const head = await ask(named(rules), 'HEAD', '/get?text=x');
    assert.deepEqual([head?.text, head?.header.get('content-length')], ['', '12']);
    const bad = await ask(named(rules), 'HEAD', '/get?i32=x');
    assert.deepEqual([bad?.text, bad?.status], ['', 400]);
  });

  test('an answer that JSON cannot express is INTERNAL, and its cause is reported', async () => {
    const causes: unknown[] = [];
    const server = transcoder(
      { Echo: { pattern: get('/a') } },
      {
        // A time after the year 9999.
        implementation: { ...echoes, echo: () => ({ at: timestampFromMs(253_402_300_800_000) }) },
        onWriteFailure: (_request, error) => causes.push(error),
      },
    );
    const answer = await ask(server, 'GET', '/a');
    assert.equal(answer?.status, 500);
    assert.doesNotMatch(answer.text, /Timestamp/);
    assert.match(String(causes), /Timestamp/);
  });

  test('an unknown path is left to the caller', async () => {
    for (const verb of ['GET', 'POST', 'OPTIONS', 'HEAD'])
      assert.equal(await ask(named(rules), verb, '/nope'), undefined);
  });
});
