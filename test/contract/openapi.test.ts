import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { getOption, hasOption } from '@bufbuild/protobuf';
import { Code } from '@connectrpc/connect';
import { Validator } from '@seriousme/openapi-schema-validator';
import { Ajv2020 } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import { http } from '../../gen/google/api/annotations_pb.ts';
import { comments } from '../../gen/sendbatch/comments.ts';
import { type Example, keyOf } from '../../src/openapi/example.ts';
import { examples } from '../../src/openapi/examples/index.ts';
import { morePaths } from '../../src/openapi/more-paths.ts';
import { knownReasons } from '../../src/rpc/error-mapping.ts';
import { guardedServices } from '../../src/rpc/interceptors/authenticate.ts';
import { shards } from '../support/database.ts';
import { startService, type TestService } from '../support/service.ts';

// biome-ignore lint/suspicious/noExplicitAny: documents are checked member by member
type Json = any;

/** Members whose values differ between runs: only presence and type are compared. */
const volatile = new Set([
  ...['message_id', 'message_idstr', 'timestamp', 'secret', 'previous_secret_until', 'duration_ms'],
  ...['since', 'host', 'pid', 'cpu_cores', 'memory_bytes'],
  ...[
    'created',
    'updated',
    'counted',
    'edited',
    'flagged',
    'ended',
    'next',
    'revoked',
    'started',
    'seen',
    'cancelled',
    'recall_requested',
  ].map((what) => `${what}_at`),
]);
/** Random ids: of batches and instances, and of keys. */
const randomId = /^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[a-z0-9]{16})$/;
/** Random ids: documented id → id of this run. */
const runIds = new Map<string, string>();

/** Records which random id of this run stands for each documented one. */
function recordIds(documented: Json, actual: Json): void {
  if (typeof documented === 'string' && randomId.test(documented)) runIds.set(documented, String(actual));
  if (typeof documented !== 'object' || documented === null) return;
  for (const [name, member] of Object.entries(documented)) recordIds(member, actual?.[name]);
}

/** Replaces values that differ between runs by their type. */
function maskVolatile(value: Json, key = ''): Json {
  // With several shards there is a lane for each.
  if (key === 'lane_messages' && shards.count > 1 && Array.isArray(value)) return [...new Set(value)];
  if (Array.isArray(value)) return value.map((each) => maskVolatile(each));
  if (typeof value === 'object' && value !== null)
    return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, maskVolatile(member, name)]));
  if (typeof value === 'string' && randomId.test(value)) return 'random id';
  // The error text of a failed webhook depends on the resolver.
  const isClock = key === 'version' && typeof value === 'number' && value > 1e12;
  const isWords = (key === 'version' || key === 'error') && typeof value === 'string';
  if (volatile.has(key) || isWords || isClock) return typeof value;
  return key === 'next_page_token' ? value !== '' : value;
}

/** Closes all object schemas, so that undocumented members fail validation. */
function closeObjects(value: Json): Json {
  if (Array.isArray(value)) return value.map(closeObjects);
  if (typeof value !== 'object' || value === null) return value;
  const copy = Object.fromEntries(Object.entries(value).map(([name, member]) => [name, closeObjects(member)]));
  return copy.type === 'object' && copy.properties !== undefined ? { additionalProperties: false, ...copy } : copy;
}

interface Property {
  readonly name: string;
  readonly schema: Json;
  /** Returns a body with a value for this property only. */
  readonly put: (value: unknown) => unknown;
}

describe('the OpenAPI document', () => {
  let service: TestService;
  let document: Json;
  let check: (pointer: string, value: unknown, what: string) => void;
  before(async () => {
    service = await startService({
      systemUids: ['system', '____system'],
      batchConcurrency: 0,
      webhooks: { settings: undefined, allowPrivate: true, timeoutMs: 5000 },
    });
    document = await (await fetch(`${service.url}/openapi.json`)).json();
    const ajv = new Ajv2020({ strict: false, allErrors: true });
    formats.default(ajv);
    ajv.addSchema(closeObjects(document), 'document');
    check = (pointer, value, what) => {
      const validate = ajv.compile({ $ref: `document#${pointer}` });
      assert.ok(validate(value), `${what}: ${ajv.errorsText(validate.errors)}\n${JSON.stringify(value)}`);
    };
  });
  after(() => service.stop());
  const operationOf = (route: string): Json => {
    const [verb = '', path = ''] = route.split(' ');
    return document.paths[path]?.[verb.toLowerCase()];
  };
  const pointerOf = (route: string, ...more: string[]) => {
    const [verb = '', path = ''] = route.split(' ');
    const steps = ['paths', path, verb.toLowerCase(), ...more];
    return `/${steps.map((step) => encodeURIComponent(step.replaceAll('~', '~0').replaceAll('/', '~1'))).join('/')}`;
  };
  const answerPointer = (route: string, status: number): string => {
    const response = operationOf(route).responses[status];
    assert.ok(response !== undefined, `${route} documents no ${status}`);
    const more = ['content', 'application/json', 'schema'];
    return response.$ref === undefined
      ? pointerOf(route, 'responses', String(status), ...more)
      : `${response.$ref.slice(1)}/content/application~1json/schema`;
  };

  test('the OpenAPI document is valid OpenAPI 3.1 and every schema in it compiles', async () => {
    const validator = new Validator();
    const { valid, errors } = await validator.validate(structuredClone(document));
    assert.ok(valid, JSON.stringify(errors));
    assert.equal(validator.version, '3.1');
    for (const name of Object.keys(document.components.schemas)) {
      const ajv = new Ajv2020({ strict: false });
      formats.default(ajv);
      ajv.addSchema(document, 'document').compile({ $ref: `document#/components/schemas/${name}` });
    }
    const ids = Object.values<Json>(document.paths).flatMap((item) =>
      Object.values<Json>(item).map((operation) => operation.operationId),
    );
    assert.equal(new Set(ids).size, ids.length, 'an operationId is there twice');
  });

  test('the OpenAPI document has every annotated route of every service', () => {
    for (const method of guardedServices.flatMap((each) => each.methods)) {
      if (!hasOption(method, http)) continue;
      const rule = getOption(method, http);
      for (const { pattern } of [rule, ...rule.additionalBindings]) {
        const route = `${pattern.case?.toUpperCase()} ${pattern.value}`;
        const operation = operationOf(route);
        assert.ok(operation !== undefined, `${route} is missing`);
        assert.ok(operation.tags.includes(method.parent.name), route);
        assert.ok(operation.description.includes(comments[`${method.parent.typeName}.${method.name}`]), route);
      }
    }
  });

  test('the OpenAPI document has an example of every operation and no stale ones', () => {
    const shown = new Set(examples.map(({ route }) => route));
    const operations = Object.entries<Json>(document.paths)
      .filter(([path]) => !Object.hasOwn(morePaths, path))
      .flatMap(([path, item]) => Object.keys(item).map((verb) => `${verb.toUpperCase()} ${path}`));
    const without = operations.filter((route) => !shown.has(route));
    assert.deepEqual(without, [], 'operations without an example in src/openapi/examples');
    const stale = [...shown].filter((route) => !operations.includes(route));
    assert.deepEqual(stale, [], 'examples of operations that are not there');
    const keys = examples.map((example) => `${example.route} ${keyOf(example)}`);
    assert.equal(new Set(keys).size, keys.length, 'an example is there twice');
  });

  test('the OpenAPI document explains every reason with its code and status', () => {
    const rows = new Map<string, string>();
    for (const line of Object.values(comments).flatMap((comment) => comment.split('\n'))) {
      const [, names = '', code = '', status = '', when = ''] =
        /^\| ((?:`[A-Z_]+`(?:, )?)+) \| ([A-Z_]+) \| (\d+) \| (.+) \|$/.exec(line) ?? [];
      for (const [, reason = ''] of names.matchAll(/`([A-Z_]+)`/g))
        rows.set(reason, `${code} ${status} ${when !== ''}`);
    }
    for (const { reason, http: status, body } of knownReasons) {
      const { error } = body('') as { error: { code: Code; status: string } };
      assert.equal(rows.get(reason), `${error.status} ${status} true`, `${reason} in the table of MessageService`);
      assert.ok(Code[error.code] !== undefined);
    }
  });

  describe('every OpenAPI example in order', () => {
    for (const example of examples)
      test(`the OpenAPI example of ${example.route} gets the documented answer: ${example.summary}`, async () => {
        const { route, status, answer } = example;
        if (example.body !== undefined && status < 300)
          check(pointerOf(route, 'requestBody', 'content', 'application/json', 'schema'), example.body, 'the body');
        checkParameters(example);
        check(answerPointer(route, status), answer, 'the documented answer');
        const response = await fetch(service.url + urlOf(example), {
          method: route.split(' ')[0] ?? '',
          ...(example.body === undefined ? {} : { body: JSON.stringify(example.body) }),
        });
        const body = await response.json();
        assert.equal(response.status, status, JSON.stringify(body));
        check(answerPointer(route, status), body, 'the answer');
        assert.deepEqual(maskVolatile(body), maskVolatile(answer));
        recordIds(answer, body);
        const shown = operationOf(route).responses[status].content['application/json'].examples[keyOf(example)];
        assert.deepEqual(shown.value, answer);
      });
  });

  function checkParameters({ route, path = {}, query = {} }: Example): void {
    const parameters: Json[] = operationOf(route).parameters ?? [];
    for (const [place, values] of [
      ['path', path],
      ['query', query],
    ] as const)
      for (const [name, value] of Object.entries(values)) {
        const index = parameters.findIndex((each) => each.name === name && each.in === place);
        assert.notEqual(index, -1, `${route} has no parameter ${name}`);
        check(pointerOf(route, 'parameters', String(index), 'schema'), value, name);
      }
    for (const { name, required } of parameters.filter((each) => each.required))
      assert.ok(Object.hasOwn({ ...path, ...query }, name), `${name} is ${required}`);
  }

  test('documented routes without an annotation are served', async () => {
    const [batch = ''] = runIds.values();
    for (const [path, { get }] of Object.entries(morePaths)) {
      const controller = new AbortController();
      const url =
        service.url +
        path.replace(/\{(\w+)\}/g, (_, name: string) =>
          name === 'batch_id' ? batch : name === 'channel_type' ? '2' : 'group123',
        );
      const response = await fetch(url, { signal: controller.signal });
      assert.equal(response.status, 200, path);
      const [type = ''] = (response.headers.get('content-type') ?? '').split(';');
      assert.ok(Object.hasOwn(get.responses[200].content, type), `${path} answers ${type}`);
      controller.abort();
    }
  });

  /** Lists every property of a JSON body, nested ones included, with a way to set it. */
  const propertiesOf = (schema: Json, put: (value: unknown) => unknown, depth = 0): Property[] => {
    const whole: Json = deref(schema);
    const forms: Json[] = (whole.anyOf ?? whole.oneOf ?? [whole]).map((form: Json) => deref(form));
    return forms.flatMap((form: Json) => {
      if (form.items !== undefined) return propertiesOf(form.items, (value) => put([value]), depth);
      return Object.entries<Json>(form.properties ?? {}).flatMap(([name, inner]) => {
        const putHere = (value: unknown) => put({ [name]: value });
        const within = depth < 3 ? propertiesOf(inner, putHere, depth + 1) : [];
        return [{ name, schema: inner, put: putHere }, ...within];
      });
    });
  };
  const deref = (schema: Json): Json => {
    if (schema.$ref === undefined) return schema;
    const { $ref, ...rest } = schema;
    return { ...document.components.schemas[$ref.split('/').at(-1)], ...rest };
  };
  const bodies = (): { route: string; schema: Json }[] =>
    Object.entries<Json>(document.paths).flatMap(([path, item]) =>
      Object.entries<Json>(item)
        .filter(([, operation]) => operation.requestBody !== undefined)
        .map(([verb, { requestBody }]) => ({
          route: `${verb.toUpperCase()} ${path}`,
          schema: requestBody.content['application/json'].schema,
        })),
    );
  const takesNull = (schema: Json) =>
    deref(schema).type === undefined
      ? (schema.anyOf?.some(({ type }: Json) => type === 'null') ??
        Object.keys(schema).every((key) => key === 'description'))
      : [deref(schema).type].flat().includes('null');
  /** Returns status and field violations of an answer. */
  const faultsOf = async (route: string, body: unknown): Promise<{ status: number; faults: string[] }> => {
    const [method = '', path = ''] = route.split(' ');
    const response = await fetch(
      service.url + path.replace(/\{(\w+)\}/g, (_, name) => (name === 'rule_id' ? '9' : 'nowhere')),
      {
        method,
        body: JSON.stringify(body),
      },
    );
    const answer = (await response.json()) as Json;
    const details: Json[] = answer.error?.details ?? [];
    const violations = details.flatMap(({ fieldViolations = [] }) => fieldViolations);
    return { status: response.status, faults: violations.map(({ field, description }) => `${field} ${description}`) };
  };

  test('null is documented exactly for the fields that accept it', async () => {
    let count = 0;
    for (const { route, schema } of bodies())
      for (const { name, schema: inner, put } of propertiesOf(schema, (value) => value)) {
        const { faults } = await faultsOf(route, put(null));
        const wrong = faults.filter((fault) => / not null$/.test(fault));
        assert.deepEqual(wrong, [], `${route} ${JSON.stringify(put(null))}`);
        if (takesNull(inner)) {
          count += 1;
          continue;
        }
        // Null counts as absent here, and the field is required in at least one form of the body.
        assert.ok(faults.length > 0, `${route} takes ${JSON.stringify(put(null))}: ${name} is not documented so`);
      }
    assert.ok(count > 100, `${count} fields`);
  });

  test('null is neither documented nor accepted as an element of a list', async () => {
    for (const { route, schema } of bodies())
      for (const { name, schema: inner, put } of propertiesOf(schema, (value) => value)) {
        const { items } = deref(inner);
        if (items === undefined || Object.keys(items).length === 0) continue;
        assert.ok(!takesNull(items), `${route} ${name}`);
        const { status, faults } = await faultsOf(route, put([null]));
        assert.equal(status, 400, `${route} ${name}`);
        assert.match(faults.join('\n'), new RegExp(`${name}\\[0\\] must be .*not null`), route);
      }
  });

  test('every number of a body documents its minimum and maximum, and values outside are refused', async () => {
    let count = 0;
    for (const { route, schema } of bodies())
      for (const { name, schema: inner, put } of propertiesOf(schema, (value) => value)) {
        const { type, enum: values, minimum, exclusiveMinimum, maximum } = deref(inner);
        if (![type].flat().includes('integer') || values !== undefined) continue;
        const least = minimum ?? exclusiveMinimum;
        assert.ok(Number.isSafeInteger(least) && Number.isSafeInteger(maximum), `${route} ${name} has no bounds`);
        for (const beyond of [exclusiveMinimum ?? minimum - 1, maximum + 1]) {
          const { status, faults } = await faultsOf(route, put(beyond));
          assert.equal(status, 400, `${route} ${JSON.stringify(put(beyond))}`);
          assert.ok(
            faults.some((fault) => fault.split(' ', 1)[0]?.endsWith(name)),
            `${route} ${JSON.stringify(put(beyond))}: ${faults.join('; ')}`,
          );
        }
        count += 1;
      }
    assert.ok(count > 30, `${count} numbers`);
  });

  test('every answer to an unknown name or id is documented', async () => {
    const unknown = (value: Json): Json => {
      if (Array.isArray(value)) return value.map(unknown);
      if (typeof value !== 'object' || value === null) return value;
      const names =
        /^(name|template|batch_id|channel_id|rule_id|message_id|message_ids|client_msg_no|delivery_ids?|uid)$/;
      return Object.fromEntries(
        Object.entries<Json>(value).map(([name, member]) => {
          if (!names.test(name)) return [name, unknown(member)];
          const nothing = (each: unknown) => (typeof each === 'string' ? 'nowhere' : 987654321);
          return [name, Array.isArray(member) ? member.map(nothing) : nothing(member)];
        }),
      );
    };
    // These create the names they use, so they run last.
    const creates = ({ route }: Example) => /^POST \/(v1\/templates|v1\/webhooks|channel(\/.*)?)$/.test(route);
    const missing = new Set<string>();
    const undocumented: string[] = [];
    for (const example of examples.toSorted((a, b) => Number(creates(a)) - Number(creates(b)))) {
      const lost = { ...example, path: unknown(example.path ?? {}), query: unknown(example.query ?? {}) };
      const { route } = example;
      const response = await fetch(service.url + urlOf(lost), {
        method: route.split(' ')[0] ?? '',
        ...(example.body === undefined ? {} : { body: JSON.stringify(unknown(example.body)) }),
      });
      const body = await response.json();
      if (operationOf(route).responses[response.status] === undefined) undocumented.push(`${route} ${response.status}`);
      else check(answerPointer(route, response.status), body, `${route} ${response.status}`);
      if (response.status === 404) missing.add(route);
    }
    assert.deepEqual(undocumented, []);
    // At least one route each of templates, rules, webhooks, batches and channels.
    for (const route of [
      'POST /v1/templates:preview',
      'GET /v1/templates/{name}',
      'PUT /v1/moderation/rules/{rule_id}',
      'POST /v1/webhooks/{name}/deliveries:redeliver',
      'GET /v1/batches/{batch_id}',
      'GET /v1/channels/{channel_type}/{channel_id}',
    ])
      assert.ok(missing.has(route), `${route} was answered otherwise than by 404`);
  });

  test('probes are documented and served in both formats', async () => {
    for (const path of ['/livez', '/readyz', '/healthz']) {
      const { responses, parameters } = document.paths[path].get;
      assert.ok(
        parameters.some(({ name }: Json) => name === 'verbose'),
        path,
      );
      for (const [status, { content }] of Object.entries<Json>(responses))
        assert.deepEqual(Object.keys(content).sort(), ['application/json', 'text/plain'], `${path} ${status}`);
      for (const [query, type] of [
        ['', 'application/json'],
        ['?verbose', 'text/plain'],
      ]) {
        const response = await fetch(`${service.url}${path}${query}`);
        assert.equal(response.status, 200, path);
        assert.ok(response.headers.get('content-type')?.startsWith(type ?? ''), `${path}${query}`);
        const text = await response.text();
        if (query === '')
          check(
            pointerOf(`GET ${path}`, 'responses', '200', 'content', 'application/json', 'schema'),
            JSON.parse(text),
            path,
          );
        else assert.match(text, /ok\n$/);
      }
    }
  });

  test('the OpenAPI document is compressed and revalidated by its ETag', async () => {
    const first = await fetch(`${service.url}/openapi.json`);
    assert.equal(first.headers.get('content-encoding'), 'gzip');
    await first.arrayBuffer();
    for (const path of ['/openapi.json', '/metrics', '/docs/swagger-ui.js']) {
      const plain = await fetch(service.url + path, { headers: { 'accept-encoding': 'br;q=0.0, gzip; q=0, *' } });
      assert.equal(plain.headers.get('content-encoding'), null, path);
      await plain.arrayBuffer();
    }
    const again = await fetch(`${service.url}/openapi.json`, {
      headers: { 'if-none-match': first.headers.get('etag') ?? '' },
    });
    assert.equal(again.status, 304);
    const head = await fetch(`${service.url}/docs`, { method: 'HEAD' });
    assert.equal(head.status, 200);
    assert.match(head.headers.get('content-security-policy') ?? '', /^default-src 'self';/);
    assert.equal((await fetch(`${service.url}/docs`, { method: 'POST' })).status, 405);
    assert.equal((await fetch(`${service.url}/docs/../package.json`)).status, 404);
  });

  test('/ redirects a browser to the documentation page and returns an index to programs', async () => {
    const page = await fetch(service.url, { headers: { accept: 'text/html,*/*' }, redirect: 'manual' });
    assert.deepEqual([page.status, page.headers.get('location')], [302, '/docs']);
    const index = (await (await fetch(service.url)).json()) as Json;
    for (const path of [index.docs, index.openapi, index.ready])
      assert.equal((await fetch(service.url + path)).status, 200, path);
    const lost = (await (await fetch(`${service.url}/v1/nothing`)).json()) as Json;
    assert.match(lost.msg, /\/docs/);
  });

  test('the OpenAPI document is readable without a credential and names the credentials that calls need', async () => {
    const strict = await startService({ databaseUrl: service.databaseUrl, requiresCredential: true, open: false });
    try {
      const strictDocument = (await (await fetch(`${strict.url}/openapi.json`)).json()) as Json;
      assert.equal((await fetch(`${strict.url}/docs`)).status, 200);
      assert.equal((await fetch(`${strict.url}/v1/server-info`)).status, 401);
      const send = strictDocument.paths['/message/sendbatch'].post;
      assert.deepEqual(send.security, [{ bearer: ['send'] }, { token: ['send'] }]);
      assert.ok(send.responses[401] !== undefined);
      assert.ok(!strictDocument.security.some((each: object) => Object.keys(each).length === 0));
      assert.ok(document.security.some((each: object) => Object.keys(each).length === 0));
    } finally {
      await strict.stop();
    }
  });
});

function urlOf({ route, path = {}, query = {} }: Example): string {
  const template = route.split(' ')[1] ?? '';
  const filled = template.replace(/\{([^}]+)\}/g, (_, name: string) => {
    const value = String(path[name]);
    return encodeURIComponent(runIds.get(value) ?? value);
  });
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query))
    for (const each of [value].flat()) search.append(name, String(each));
  return search.size === 0 ? filled : `${filled}?${search}`;
}
