import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { TimestampSchema } from '@bufbuild/protobuf/wkt';
import { createClient } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { BatchService } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { jsonCaller } from '../support/json.ts';
import { startService, type TestService } from '../support/service.ts';
import { readAll } from '../support/verify.ts';

let service: TestService;
before(async () => {
  service = await startService();
});
after(() => service.stop());

const payload = 'SGk=';
const draft = { from_uid: 'system', channel_id: 'strict', channel_type: 2, payload };
const broadcast = (...subscribers: string[]) => ({ from_uid: 'system', subscribers, payload });

interface Violation {
  readonly field: string;
  readonly description: string;
}

/** Returns the field violations of an answer of a JSON route. */
function violationsOf(body: { error?: { details: { fieldViolations?: Violation[] }[] } }): Violation[] {
  return body.error?.details.flatMap((each) => each.fieldViolations ?? []) ?? [];
}

async function storedCount(): Promise<number> {
  return (await readAll(service.databaseUrl)).length;
}

describe('query parameters', () => {
  const rows: [verb: string, url: string, body: unknown, field: string, description: RegExp][] = [
    ['POST', '/message/sendbatch?validate_onli=true', [draft], 'validate_onli', /did you mean validate_only\?/],
    ['POST', '/message/sendbatch?mode=bogus', [draft], 'mode', /best_effort, atomic/],
    ['POST', '/message/sendbatch?mode=atomic&mode=best_effort', [draft], 'mode', /only once/],
    ['POST', '/message/sendbatch?mode=atomic&mode=atomic', [draft], 'mode', /only once/],
    ['POST', '/message/sendbatch?validate_only=yes', [draft], 'validate_only', /true or false/],
    ['POST', '/message/sendbatch?messages=x', [draft], 'messages', /comes from the body/],
    ['POST', '/message/sendbatch?mode=bogus', broadcast('ann'), 'mode', /best_effort, atomic/],
    ['POST', '/message/sendbatch?mode=9', broadcast('ann'), 'mode', /.+/],
    ['POST', '/message/sendbatch?validate_only=2', broadcast('ann'), 'validate_only', /true or false/],
    ['POST', '/message/sendbatch?expire=5', broadcast('ann'), 'expire', /comes from the body/],
    ['POST', '/message/broadcast?validateonly=true', broadcast('ann'), 'validateonly', /did you mean validate_only/],
    ['POST', '/message/send?validate_only=true&validateOnly=true', draft, 'validate_only', /only once/],
    ['POST', '/message/send?send_at=2030-01-01T00:00:00Z', draft, 'send_at', /is not a parameter of this route/],
    ['POST', '/message/send?message.payload=AA==', draft, 'message.payload', /comes from the body/],
    ['POST', '/v1/batches?priority=hi', { messages: [draft] }, 'priority', /low, normal, high/],
    ['POST', '/v1/batches?send_at.seconds=5', { messages: [draft] }, 'send_at.seconds', /has no subfields/],
    ['POST', '/v1/batches?validate_only=true', { messages: [draft] }, 'validate_only', /is not a parameter/],
    ['GET', '/v1/batches?states=0', undefined, 'states[0]', /.+/],
    ['GET', '/v1/batches?state=running', undefined, 'state', /did you mean states\?/],
    ['GET', '/v1/channels/2/strict/messages?since.seconds=5', undefined, 'since.seconds', /has no subfields/],
    ['GET', '/v1/channels/2/strict/messages?limit.x=5', undefined, 'limit.x', /has no subfields/],
    ['GET', '/v1/channels/2/strict/messages?after_sec=5', undefined, 'after_sec', /did you mean after_seq\?/],
    ['GET', '/v1/channels/2/strict/messages?after_seq=1&afterSeq=2', undefined, 'after_seq', /only once/],
    ['GET', '/v1/channels/2/strict/messages?channel_id=x', undefined, 'channel_id', /comes from the path/],
    ['GET', '/v1/channels/2/strict/events?after_sec=5', undefined, 'after_sec', /did you mean after_seq\?/],
    ['GET', '/v1/channels/2/strict/events?after_seq=5&after_seq=6', undefined, 'after_seq', /only once/],
    ['GET', '/v1/channels/2/strict/events?from_now=yes', undefined, 'from_now', /true or false/],
    ['GET', '/v1/channels/2/strict/events?uid=a&login_uid=b', undefined, 'login_uid', /an alias of uid/],
    ['GET', '/v1/channels/2/strict/events?uid=%ff', undefined, 'query', /not UTF-8/],
    ['GET', '/v1/channels/2/strict/events?=5', undefined, 'query', /without a name/],
    ['GET', '/v1/batches?=5', undefined, 'query', /without a name/],
    ['GET', '/v1/channels/0x2/strict/events', undefined, 'channel_type', /from 1 to 12/],
    ['POST', '/v1/batches/x:cancel', { batch_id: 'y' }, 'body', /must be empty/],
    ['POST', '/v1/batches/x:cancel', [], 'body', /must be empty/],
    ['DELETE', '/v1/templates/x', { version: 2 }, 'body', /must be empty/],
    ['GET', '/v1/batches/x/events?after_seq=5', undefined, 'after_seq', /is not a parameter/],
  ];
  for (const [verb, url, body, field, description] of rows)
    test(`${verb} ${url} is refused by name${Array.isArray(body) || body === undefined ? '' : ', object body'}`, async () => {
      const stored = await storedCount();
      const response = await fetch(service.url + url, {
        method: verb,
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      const [violation] = violationsOf((await response.json()) as object);
      assert.equal(response.status, 400);
      assert.equal(violation?.field, field);
      assert.match(violation?.description ?? '', description);
      assert.equal(await storedCount(), stored);
    });

  test('an unknown query parameter is refused on every documented route and ignored by pages and probes', async () => {
    const { paths } = (await (await fetch(`${service.url}/openapi.json`)).json()) as {
      paths: Record<string, Record<string, unknown>>;
    };
    const passing = new Set(['/livez', '/readyz', '/healthz', '/health', '/metrics', '/openapi.json', '/docs', '/']);
    let refused = 0;
    for (const [path, operations] of Object.entries(paths))
      for (const verb of Object.keys(operations).filter((each) => /^(get|post|put|patch|delete)$/.test(each))) {
        const url = path.replace('{channel_type}', '2').replace(/\{\w+\}/g, '1');
        const sent = verb === 'get' || verb === 'delete' ? {} : { body: path === '/message/sendbatch' ? '[]' : '{}' };
        const response = await fetch(`${service.url + url}?zz_unknown=1`, { method: verb.toUpperCase(), ...sent });
        const text = await response.text();
        if (passing.has(path)) assert.ok(response.ok, `${verb} ${path}: ${text}`);
        else {
          assert.equal(response.status, 400, `${verb} ${path}: ${text}`);
          assert.match(text, /"zz_unknown"/, `${verb} ${path}`);
          refused++;
        }
      }
    assert.ok(refused > 40, String(refused));
  });

  test('query parameters on the path of an RPC are refused, except those of a Connect GET', async () => {
    const stored = await storedCount();
    const path = `${service.url}/sendbatch.v1.MessageService`;
    const response = await fetch(`${path}/SendBatch?validate_only=true`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ messages: [{ fromUid: 'system', channelId: 'strict', channelType: 2, payload }] }),
    });
    assert.equal(response.status, 400);
    assert.match(await response.text(), /validate_only: is not a parameter of this path/);
    assert.equal(await storedCount(), stored);
    const info = `${path}/GetServerInfo?connect=v1&encoding=json&message=%7B%7D`;
    assert.equal((await fetch(info)).status, 200);
    const more = await fetch(`${info}&uid=ann`);
    assert.equal(more.status, 400);
    assert.match(await more.text(), /uid: is not a parameter/);
  });
});

test('an empty JSON body on the path of an RPC is refused as empty', async () => {
  const response = await fetch(`${service.url}/sendbatch.v1.MessageService/SendBatch`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
  });
  assert.equal(response.status, 400);
  assert.match(await response.text(), /the body is empty/);
});

describe('broadcast options', () => {
  for (const path of ['/message/sendbatch', '/message/broadcast'])
    for (const [where, query, more] of [
      ['query', '?validate_only=true', {}],
      ['body', '', { validate_only: true }],
      ['query and body', '?validate_only=true', { validate_only: true }],
    ] as const)
      test(`a broadcast to ${path} with validate_only in the ${where} sends nothing`, async () => {
        const stored = await storedCount();
        const { post } = jsonCaller(service.url);
        const { status, body } = await post(path + query, { ...broadcast('ann', 'b@b'), ...more });
        assert.equal(status, 200);
        assert.deepEqual(body.fail_uids, ['b@b']);
        assert.equal(await storedCount(), stored);
      });

  test('a broadcast is refused when body and query differ', async () => {
    const { post } = jsonCaller(service.url);
    const { status, body } = await post('/message/broadcast?validate_only=false', {
      ...broadcast('ann'),
      validate_only: true,
    });
    assert.equal(status, 400);
    assert.match(body.msg, /validate_only: differs between the body and the query/);
  });

  test('a broadcast with mode ATOMIC reaches all of its receivers or none', async () => {
    const { post } = jsonCaller(service.url);
    const stored = await storedCount();
    const bad = await post('/message/broadcast?mode=atomic', broadcast('atomic-1', 'a@b'));
    assert.equal(bad.status, 400);
    assert.deepEqual(violationsOf(bad.body)[0]?.field, 'subscribers[1]');
    const key = { ...broadcast('atomic-1', 'atomic-1', 'atomic-2'), request_id: 'atomic' };
    assert.deepEqual((await post('/message/broadcast?mode=atomic', key)).body, { fail_uids: [], reason: [] });
    assert.equal(await storedCount(), stored + 2);
    // The key of the third receiver was used for other content.
    const reused = await post('/message/broadcast?mode=atomic', { ...key, payload: 'SGo=' });
    assert.equal(reused.status, 409);
    assert.deepEqual(
      violationsOf(reused.body).map(({ field }) => field),
      ['subscribers[0]', 'subscribers[2]'],
    );
    const many = Array.from({ length: 1001 }, (_, index) => `u${index}`);
    const large = await post('/message/broadcast', { ...broadcast(...many), mode: 'atomic' });
    assert.equal(large.status, 413);
    assert.match(large.body.msg, /subscribers: must have at most 1000 entries with mode ATOMIC, not 1001/);
    assert.equal(await storedCount(), stored + 2);
  });
});

describe('unknown fields', () => {
  test('unknown fields are refused by name on every /v1 route', async () => {
    const { paths } = (await (await fetch(`${service.url}/openapi.json`)).json()) as {
      paths: Record<string, Record<string, { requestBody?: object }>>;
    };
    let refused = 0;
    for (const [path, operations] of Object.entries(paths))
      for (const [verb, { requestBody }] of Object.entries(operations)) {
        if (requestBody === undefined) continue;
        const url = path.replace('{channel_type}', '2').replace(/\{\w+\}/g, '1');
        const body = path === '/message/sendbatch' ? [{ zz_unknown: 1 }] : { zz_unknown: 1 };
        const response = await fetch(service.url + url, { method: verb.toUpperCase(), body: JSON.stringify(body) });
        const text = await response.text();
        if (!path.startsWith('/v1/')) assert.doesNotMatch(text, /zz_unknown/, `${verb} ${path}`);
        else {
          assert.equal(response.status, 400, `${verb} ${path}: ${text}`);
          assert.match(text, /zz_unknown"/, `${verb} ${path}`);
          refused++;
        }
      }
    assert.ok(refused > 5, String(refused));
  });

  const rows: [where: string, body: string, type: string, field: string, description: RegExp][] = [
    [
      'a message of a batch',
      JSON.stringify({ messages: [draft, { ...draft, sendat: '2030-01-01T00:00:00Z' }] }),
      'application/json',
      'messages[1].sendat',
      /did you mean send_at\?/,
    ],
    [
      'a header',
      JSON.stringify({ messages: [{ ...draft, header: { redot: 1 } }] }),
      'application/json',
      'messages[0].header.redot',
      /did you mean red_dot\?/,
    ],
    [
      'a line of NDJSON',
      `${JSON.stringify(draft)}\n${JSON.stringify({ ...draft, sent_at: 'x' })}\n`,
      'application/x-ndjson',
      'messages[1].sent_at',
      /did you mean send_at\? \(line 2\)/,
    ],
    [
      'an option of a batch',
      JSON.stringify({ messages: [draft], when: 1 }),
      'application/json',
      'when',
      /is not a field/,
    ],
    [
      'a name in another case',
      JSON.stringify({ Messages: [draft] }),
      'application/json',
      'Messages',
      /did you mean messages\?/,
    ],
  ];
  for (const [where, body, type, field, description] of rows)
    test(`an unknown field is refused by name in ${where}: ${field}`, async () => {
      const response = await fetch(`${service.url}/v1/batches`, {
        method: 'POST',
        headers: { 'content-type': type },
        body,
      });
      const violations = violationsOf((await response.json()) as object);
      assert.equal(response.status, 400);
      const found = violations.find((each) => each.field === field);
      assert.ok(found !== undefined, JSON.stringify(violations));
      assert.match(found.description, description);
    });
});

describe('message_count', () => {
  const rows: [query: string, more: object, status: number][] = [
    ['', { message_count: 2 }, 200],
    ['?message_count=2', {}, 200],
    ['', { message_count: 3 }, 400],
    ['?message_count=1', {}, 400],
    ['?message_count=1', { message_count: 2 }, 400],
  ];
  for (const [query, more, status] of rows)
    test(`message_count of an object with two messages: ${query || JSON.stringify(more)} is ${status}`, async () => {
      const { post } = jsonCaller(service.url);
      const answer = await post(`/v1/batches${query}`, { messages: [draft, draft], ...more });
      assert.equal(answer.status, status, JSON.stringify(answer.body));
      if (status === 400) assert.match(answer.body.msg, /message_count/);
    });
});

/** All ways to submit a batch as JSON; each returns the text of its answer. */
const submitting: Record<string, (message: string, options: string) => Promise<string>> = {
  'the JSON route': async (message, options) =>
    await textOf('/v1/batches', 'application/json', `{"messages":[${message}]${options === '' ? '' : `,${options}`}}`),
  'Connect, JSON': async (message, options) =>
    await textOf(
      '/sendbatch.v1.BatchService/SubmitBatch',
      'application/json',
      `{"messages":[${message}]${options === '' ? '' : `,${options}`}}`,
    ),
  'Connect, JSON stream': async (message, options) =>
    await textOf(
      '/sendbatch.v1.BatchService/SubmitBatchStream',
      'application/connect+json',
      enveloped(`{"options":{${options}},"messages":[${message}],"last":true}`),
    ),
  'gRPC-Web, JSON': async (message, options) =>
    await textOf(
      '/sendbatch.v1.BatchService/SubmitBatch',
      'application/grpc-web+json',
      enveloped(`{"messages":[${message}]${options === '' ? '' : `,${options}`}}`),
    ),
};

function enveloped(text: string | Uint8Array): Uint8Array<ArrayBuffer> {
  const body = Buffer.from(text as string);
  const head = Buffer.alloc(5);
  head.writeUInt32BE(body.length, 1);
  return new Uint8Array(Buffer.concat([head, body]));
}

async function textOf(path: string, type: string, body: string | Uint8Array<ArrayBuffer>): Promise<string> {
  const response = await fetch(service.url + path, { method: 'POST', headers: { 'content-type': type }, body });
  const text = decodeURIComponent((await response.text()).replaceAll(/%(?![0-9A-F]{2})/g, '%25'));
  return `${response.status} ${response.headers.get('grpc-status') ?? ''} ${decodeURIComponent(response.headers.get('grpc-message') ?? '')} ${text}`;
}

describe('inexact values', () => {
  const message = (more: string) => `{"fromUid":"system","channelId":"exact","channelType":2,"payload":"SGk="${more}}`;
  const templated = (variables: string) =>
    `{"fromUid":"system","channelId":"exact","channelType":2,"template":{"name":"x","variables":${variables}}}`;
  const rows: [what: string, message: string, options: string, expected: RegExp][] = [
    [
      'February 29 of 2027',
      message(',"sendAt":"2027-02-29T12:00:00Z"'),
      '',
      /messages\[0\]\.send_at.{0,9}must be a valid time/,
    ],
    [
      'the time 24:00',
      message(',"sendAt":"2027-03-01T24:00:00Z"'),
      '',
      /messages\[0\]\.send_at.{0,9}must be a valid time/,
    ],
    [
      'a leap second',
      message(',"sendAt":"2027-06-30T23:59:60Z"'),
      '',
      /messages\[0\]\.send_at.{0,9}must be a valid time/,
    ],
    [
      'April 31 as the time of the batch',
      message(''),
      '"sendAt":"2027-04-31T00:00:00Z"',
      /send_at.{0,9}must be a valid time/,
    ],
    [
      '2^53 + 1',
      templated('{"total":9007199254740993}'),
      '',
      /messages\[0\]\.template\.variables\.total.{0,9}is an integer above 2\^53/,
    ],
    [
      'a nested 2^53 + 1',
      templated('{"a":[{"b":9007199254740993}]}'),
      '',
      /variables\.a\[0\]\.b.{0,9}is an integer above/,
    ],
    [
      'twenty digits',
      templated('{"a":0.12345678901234567890}'),
      '',
      /variables\.a.{0,9}has more digits than a double holds/,
    ],
    ['a key twice', message(',"tagKey":"a","tagKey":"b"'), '', /messages\[0\]\.tagKey.{0,9}is repeated/],
    ['an unknown field', message(',"sent_at":"x"'), '', /messages\[0\]\.sent_at.{0,9}is not a field/],
  ];
  for (const [what, text, options, expected] of rows)
    for (const [name, submit] of Object.entries(submitting))
      test(`${what} is refused and nothing is stored (${name})`, async () => {
        const before = (await jsonCaller(service.url).get('/v1/batches')).body.batches.length;
        const answer = await submit(text, options);
        assert.match(answer, expected);
        assert.match(answer, /^400|^200 3|"invalid_argument"|grpc-status: ?3/);
        assert.equal((await jsonCaller(service.url).get('/v1/batches')).body.batches.length, before);
      });

  for (const [what, text, expected] of [
    ['a key twice', message(',"tagKey":"a","tagKey":"b"'), /messages\[1500\]\.tagKey.{0,9}is repeated/],
    ['2^53 + 1', templated('{"n":9007199254740993}'), /messages\[1500\]\.template\.variables\.n.{0,9}is an integer/],
    [
      'twenty digits',
      templated('{"n":0.12345678901234567890}'),
      /messages\[1500\]\.template\.variables\.n.{0,9}has more/,
    ],
    [
      'twenty digits in a large list',
      templated(`{"n":[${'1,'.repeat(80_000)}0.12345678901234567890]}`),
      /variables\.n\[80000\].{0,9}has more/,
    ],
  ] as const)
    test(`${what} in a body parsed in several slices is refused`, async () => {
      const batch = [...Array.from({ length: 1500 }, () => message('')), text, message('')].join(',');
      for (const [name, submit] of Object.entries(submitting)) assert.match(await submit(batch, ''), expected, name);
    });

  test('a uid that is not valid UTF-8 is refused on every JSON route and protocol', async () => {
    const stored = await storedCount();
    const [head = '', tail = ''] = message('').split('system');
    const bytes = Buffer.concat([Buffer.from(head), Buffer.from([0xff]), Buffer.from(tail)]);
    const wrapped = (before: string, after: string) =>
      new Uint8Array(Buffer.concat([Buffer.from(before), bytes, Buffer.from(after)]));
    const sends: [path: string, type: string, body: Uint8Array<ArrayBuffer>][] = [
      ['/message/sendbatch', 'application/json', wrapped('[', ']')],
      ['/v1/batches', 'application/x-ndjson', wrapped('', '')],
      ['/sendbatch.v1.MessageService/SendBatch', 'application/json', wrapped('{"messages":[', ']}')],
      [
        '/sendbatch.v1.BatchService/SubmitBatchStream',
        'application/connect+json',
        enveloped(wrapped('{"messages":[', '],"last":true}')),
      ],
      [
        '/sendbatch.v1.MessageService/SendBatch',
        'application/grpc-web+json',
        enveloped(wrapped('{"messages":[', ']}')),
      ],
    ];
    for (const [path, type, body] of sends)
      assert.match(await textOf(path, type, body), /not valid UTF-8/, `${path} ${type}`);
    assert.equal(await storedCount(), stored);
  });

  test('an invalid time in a query or a Connect GET is refused', async () => {
    const { get } = jsonCaller(service.url);
    const url = '/v1/channels/2/exact/messages';
    for (const name of ['since', 'until']) {
      const answer = await get(`${url}?${name}=2027-02-29T12:00:00Z`);
      assert.equal(answer.status, 400);
      assert.match(answer.body.msg, new RegExp(`${name}: must be a valid time`));
    }
    const message = encodeURIComponent('{"channelId":"exact","channelType":2,"since":"2027-02-29T12:00:00Z"}');
    const path = '/sendbatch.v1.MessageService/ListMessages?connect=v1&encoding=json&message=';
    const response = await fetch(service.url + path + message);
    assert.equal(response.status, 400);
    assert.match(await response.text(), /since: must be a valid time/);
  });

  test('a Protobuf time without an RFC 3339 text is refused', async () => {
    const client = createClient(BatchService, createGrpcTransport({ baseUrl: service.url }));
    const base = {
      ...{ fromUid: 'system', channelId: 'exact', channelType: ChannelType.GROUP },
      payload: new Uint8Array([1]),
    };
    const seconds = BigInt(Math.floor(Date.now() / 1000) + 3600);
    const times = [
      { seconds, nanos: 1_000_000_000 },
      { seconds, nanos: -1 },
      { seconds: 253_402_300_800n, nanos: 0 },
      { seconds: -62_135_596_801n, nanos: 0 },
    ];
    for (const time of times) {
      const sendAt = create(TimestampSchema, time);
      const expected = /send_at: must be a valid time/;
      await assert.rejects(
        client.submitBatch({ messages: [base, { ...base, sendAt }] }),
        /messages\[1\]\.send_at: must/,
      );
      await assert.rejects(client.submitBatch({ messages: [base], sendAt }), expected);
    }
  });
});
