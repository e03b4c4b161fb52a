import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { type DescField, type DescMessage, type DescMethod, getOption, hasOption } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { http } from '../../gen/google/api/annotations_pb.ts';
import { guardedServices } from '../../src/rpc/interceptors/authenticate.ts';
import { seedOf } from '../support/seed.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound } from '../support/verify.ts';

/** Values that often break servers: SQL, NUL, line feeds, lone surrogates, paths, odd numbers. */
const nasty = fc.constantFrom(
  `'; drop table sendbatch.message; --`,
  `" or ""="`,
  '$1',
  `{"$ne":null}`,
  '\0',
  'a\r\nset-cookie: x=1',
  '\u001b[31m',
  '\ud800',
  '../../etc/passwd',
  '%00%ff',
  '9007199254740993',
  '-1',
  'NaN',
  '',
  'a@b',
  'a#b',
  '__proto__',
  'constructor',
  'u1',
  'x'.repeat(300),
  '系统',
);
const scalar = fc.oneof(
  nasty,
  nasty,
  fc.integer(),
  fc.double(),
  fc.boolean(),
  fc.constant(null),
  fc.string({ unit: 'binary' }),
);
const small = fc.oneof(fc.integer({ min: 0, max: 3 }), nasty);

/** Generates bodies with the fields of a method and values of mostly the right type. */
function bodyOf(message: DescMessage, depth = 0): fc.Arbitrary<unknown> {
  const fields = Object.fromEntries(
    message.fields.map((field) => [
      field.name,
      fc.oneof({ weight: 6, arbitrary: arbitraryOf(field, depth) }, { weight: 1, arbitrary: scalar }),
    ]),
  );
  return fc.oneof(
    { weight: 8, arbitrary: fc.record(fields, { requiredKeys: [] }) },
    { weight: 1, arbitrary: fc.jsonValue() },
  );
}

function arbitraryOf(field: DescField, depth: number): fc.Arbitrary<unknown> {
  const one =
    field.message !== undefined
      ? depth > 2
        ? fc.constant({})
        : bodyOf(field.message, depth + 1)
      : field.fieldKind === 'enum' || (field.fieldKind === 'list' && field.listKind === 'enum')
        ? small
        : field.name === 'payload'
          ? fc.oneof(fc.constant('SGk='), scalar)
          : field.name === 'channel_type' || field.scalar !== 9
            ? fc.oneof(small, scalar)
            : fc.oneof(fc.constantFrom('u1', 'a', 'g1'), nasty);
  return field.fieldKind === 'list' ? fc.array(one, { maxLength: 4 }) : one;
}

describe('random requests to every route', () => {
  let service: TestService;
  before(async () => {
    service = await startService({ systemUids: ['system'] });
  });
  after(async () => {
    await assertSound(service.databaseUrl);
    await service.stop();
  });

  /** Rejects 5xx answers, INTERNAL results and leaked internals. */
  const check = async (what: string, path: string, init: RequestInit) => {
    const response = await fetch(service.url + path, init);
    const text = await response.text();
    // A random header may set a deadline of zero, which is missed by definition.
    const isMissedDeadline = response.status === 504 && text.includes('"reason":"DEADLINE"');
    assert.ok(response.status < 500 || isMissedDeadline, `${what} ${path} ${init.body}: ${response.status} ${text}`);
    assert.doesNotMatch(text, /syntax error|relation "|PGSQL|node_modules|at async/, 'internals leak');
    assert.ok(!text.includes('"reason":"INTERNAL"'), `${what} ${init.body}: ${text}`);
    assert.equal(response.headers.get('set-cookie'), null);
    if (text !== '' && response.headers.get('content-type')?.includes('json')) JSON.parse(text);
  };
  const methods = guardedServices.flatMap((each) => each.methods as DescMethod[]);
  const json = (body: unknown) => JSON.stringify(body) ?? 'null';

  for (const method of methods) {
    test(`random bodies of ${method.parent.name}.${method.name} over Connect never cause a server error`, async (context) => {
      const path = `/${method.parent.typeName}/${method.name}`;
      await fc.assert(
        fc.asyncProperty(bodyOf(method.input), (body) =>
          check(method.name, path, {
            method: 'POST',
            headers: { 'content-type': 'application/json' },
            body: json(body),
          }),
        ),
        { seed: seedOf(context), numRuns: 25 },
      );
    });
  }

  const routes = methods
    .filter((method) => hasOption(method, http))
    .flatMap((method) => {
      const rule = getOption(method, http);
      return [rule, ...rule.additionalBindings].map(({ pattern }) => ({
        method,
        verb: (pattern.case ?? 'get').toUpperCase(),
        template: typeof pattern.value === 'string' ? pattern.value : '',
      }));
    });
  for (const { verb, template, method } of routes) {
    test(`random requests to ${verb} ${template} never cause a server error`, async (context) => {
      const input = fc.record({
        names: fc.array(fc.oneof(fc.constantFrom('2', 'a', '1'), nasty), { minLength: 3, maxLength: 3 }),
        query: fc.dictionary(fc.constantFrom(...method.input.fields.map((field) => field.name), 'x'), nasty, {
          maxKeys: 3,
        }),
        content: bodyOf(method.input),
        array: fc.array(bodyOf(method.input), { maxLength: 3 }),
        isArray: fc.boolean(),
        raw: fc.oneof(
          { weight: 7, arbitrary: fc.constant(undefined) },
          { weight: 1, arbitrary: fc.string({ unit: 'binary' }) },
        ),
      });
      await fc.assert(
        fc.asyncProperty(input, ({ names, query, content, array, isArray, raw }) => {
          let at = 0;
          const path = template.replace(/\{[^}]*\}/g, () => encodeURIComponent((names[at++] ?? 'x').toWellFormed()));
          const search = new URLSearchParams(query).toString();
          const sent = raw ?? json(isArray ? array : content);
          return check(method.name, `${path}?${search}`, {
            method: verb,
            ...(verb === 'GET' || verb === 'DELETE' ? {} : { body: sent }),
          });
        }),
        { seed: seedOf(context), numRuns: 25 },
      );
    });
  }

  test('random headers never cause a server error', async (context) => {
    const value = fc.string({
      unit: fc.integer({ min: 32, max: 126 }).map((code) => String.fromCharCode(code)),
      maxLength: 200,
    });
    await fc.assert(
      fc.asyncProperty(
        fc.dictionary(
          fc.constantFrom(
            'content-type',
            'x-request-id',
            'idempotency-key',
            'connect-timeout-ms',
            'grpc-timeout',
            'authorization',
            'token',
            'accept-encoding',
            'connect-protocol-version',
          ),
          value,
        ),
        (headers) =>
          check('headers', '/message/sendbatch', {
            method: 'POST',
            headers,
            body: '[{"from_uid":"system","channel_id":"h","channel_type":2,"payload":"SGk="}]',
          }),
      ),
      { seed: seedOf(context), numRuns: 200 },
    );
  });
});
