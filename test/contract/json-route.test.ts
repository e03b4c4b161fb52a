import assert from 'node:assert/strict';
import { request as httpRequest } from 'node:http';
import { connect as http2Connect, constants as http2Constants, type IncomingHttpHeaders } from 'node:http2';
import { connect } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { LimitsSchema } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { limits } from '../../src/limits.ts';
import { startService, type TestService } from '../support/service.ts';
import { readAll } from '../support/verify.ts';

// The documented request, byte for byte.
const documented = `[
  { "header": { "no_persist": 0, "red_dot": 1, "sync_once": 0 }, "client_msg_no": "batch_msg_1", "from_uid": "system",
    "channel_id": "group123", "channel_type": 2, "expire": 0, "payload": "SGVsbG8gR3JvdXAgMQ==", "tag_key": "notification" },
  { "header": { "no_persist": 0, "red_dot": 1, "sync_once": 0 }, "client_msg_no": "batch_msg_2", "from_uid": "system",
    "channel_id": "group456", "channel_type": 2, "expire": 0, "payload": "SGVsbG8gR3JvdXAgMg==", "tag_key": "notification" }
]`;

let service: TestService;
before(async () => {
  service = await startService();
});
after(() => service.stop());

interface Answer {
  readonly status: number;
  readonly headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: the bodies are checked field by field
  readonly body: any;
}
async function post(path: string, body: string | Buffer, headers: Record<string, string> = {}): Promise<Answer> {
  return await answerOf(
    await fetch(service.url + path, {
      method: 'POST',
      body: typeof body === 'string' ? body : new Uint8Array(body),
      headers,
    }),
  );
}
async function get(path: string, init: RequestInit = {}): Promise<Answer> {
  return await answerOf(await fetch(service.url + path, init));
}
async function answerOf(response: Response): Promise<Answer> {
  const text = await response.text();
  return { status: response.status, headers: response.headers, body: text === '' ? undefined : JSON.parse(text) };
}
let freshIds = 0;
const fresh = () => `json-${freshIds++}`;
const draft = (more: object = {}) => ({
  from_uid: 'u1',
  channel_id: fresh(),
  channel_type: 2,
  payload: 'SGk=',
  client_msg_no: '1',
  ...more,
});
const batch = (...drafts: object[]) => JSON.stringify(drafts.map((each) => draft(each)));

describe('POST /message/sendbatch with the documented array', () => {
  test('POST /message/sendbatch returns the documented array with three fields and numeric ids', async () => {
    const { status, headers, body } = await post('/message/sendbatch', documented, {
      'content-type': 'application/json',
    });
    assert.equal(status, 200);
    assert.equal(headers.get('content-type'), 'application/json');
    assert.deepEqual(body.map(Object.keys), [
      ['message_id', 'message_seq', 'client_msg_no'],
      ['message_id', 'message_seq', 'client_msg_no'],
    ]);
    assert.deepEqual(
      body.map((each: { client_msg_no: string }) => each.client_msg_no),
      ['batch_msg_1', 'batch_msg_2'],
    );
    for (const each of body) assert.deepEqual([typeof each.message_id, each.message_seq], ['number', 1]);
    const again = await post('/message/sendbatch', documented);
    assert.deepEqual(
      again.body,
      body.map((each: object) => ({ ...each, duplicate: true })),
    );
  });

  const accepted: [string, string | Buffer, Record<string, string>?][] = [
    ['without a Content-Type', Buffer.from(batch({}))],
    ['with an unexpected Content-Type', batch({}), { 'content-type': 'text/plain; charset=latin1' }],
    [
      'with null for optional fields',
      batch({ header: null, subscribers: null, expire: null, stream_no: null, tag_key: null }),
    ],
    ['with unknown fields', batch({ setting: 128, topic: 'x', nested: { a: [1] } })],
    [
      'in lowerCamelCase',
      JSON.stringify([{ fromUid: 'u1', channelId: fresh(), channelType: 2, payload: 'SGk=', clientMsgNo: '1' }]),
    ],
    ['with a byte order mark', `\uFEFF${batch({})}`],
    ['compressed with gzip', gzipSync(batch({})), { 'content-encoding': 'gzip' }],
    ['with URL-safe, unpadded base64', batch({ payload: '-_8' })],
    ['with a channel type by its name', batch({ channel_type: 'CHANNEL_TYPE_GROUP' })],
    ['with a __proto__ key', `[{"__proto__":{"polluted":1},${batch({}).slice(2)}`],
  ];
  for (const [what, body, headers] of accepted) {
    test(`POST /message/sendbatch accepts a body ${what}`, async () => {
      const answer = await post('/message/sendbatch', body, headers);
      assert.equal(answer.status, 200, JSON.stringify(answer.body));
      assert.equal(answer.body.length, 1);
      assert.equal('polluted' in {}, false);
    });
  }

  const refused: [string, string | Buffer, number, RegExp, Record<string, string>?][] = [
    ['a body that is not JSON', '[{', 400, /not JSON/],
    ['an empty body', '', 400, /from_uid|payload|array/],
    ['a string at the root', '"x"', 400, /array|object/],
    ['null at the root', 'null', 400, /array|object/],
    ['a number in the array', '[3]', 400, /messages\[0\].*object/],
    ['a number for a string', batch({ channel_id: 7 }), 400, /messages\[0\]\.channel_id.*string/],
    ['a string for a number', batch({ expire: '7' }), 400, /messages\[0\]\.expire.*number/],
    ['a number in place of an enum name', batch({ channel_type: '2' }), 400, /messages\[0\]\.channel_type/],
    ['a fraction', batch({ expire: 1.5 }), 400, /messages\[0\]\.expire.*whole/],
    ['a negative number', batch({ expire: -1 }), 400, /messages\[0\]\.expire/],
    ['a number out of range', batch({ expire: 4294967296 }), 400, /messages\[0\]\.expire/],
    ['true for a flag', batch({ header: { red_dot: true } }), 400, /messages\[0\]\.header\.red_dot/],
    ['an array for an object', batch({ header: [] }), 400, /messages\[0\]\.header/],
    ['an object for an array', batch({ subscribers: {} }), 400, /messages\[0\]\.subscribers/],
    ['bad base64', batch({ payload: 'SGk*' }), 400, /messages\[0\]\.payload.*base64/],
    ['truncated base64', batch({ payload: 'SGkxx' }), 400, /messages\[0\]\.payload.*base64/],
    ['an unknown enum name', batch({ channel_type: 'CHANNEL_TYPE_PARTY' }), 400, /messages\[0\]\.channel_type/],
    [
      'half a surrogate pair',
      `[{"from_uid":"\\ud800",${batch({}).slice(2).replace('"from_uid":"u1",', '')}`,
      400,
      /messages\[0\]\.from_uid.*Unicode/,
    ],
    [
      'invalid UTF-8',
      Buffer.concat([Buffer.from('[{"from_uid":"'), Buffer.from([0xff]), Buffer.from('"}]')]),
      400,
      /UTF-8/,
    ],
    ['a repeated key', `[{"from_uid":"a","from_uid":"b"}]`, 400, /from_uid.*repeated/],
    ['a field under both names', `[{"from_uid":"a","fromUid":"b"}]`, 400, /from_uid.*twice/],
    ['10,000 levels of nesting', `${'['.repeat(10_000)}${']'.repeat(10_000)}`, 400, /nested/],
    ['an uncompressed body with Content-Encoding gzip', batch({}), 400, /gzip/, { 'content-encoding': 'gzip' }],
    ['an unknown encoding', batch({}), 415, /Content-Encoding/, { 'content-encoding': 'zstd' }],
    ['a gzip bomb', gzipSync(Buffer.alloc(40 * 1024 * 1024, 32)), 413, /at most/, { 'content-encoding': 'gzip' }],
    ['a body of 17 MiB', Buffer.alloc(17 * 1024 * 1024, 32), 413, /at most 16777216/],
    ['an unknown mode', batch({}), 400, /mode/],
  ];
  for (const [what, body, status, text, headers] of refused) {
    test(`POST /message/sendbatch refuses ${what} with ${status}`, async () => {
      const query = what === 'an unknown mode' ? '?mode=perhaps' : '';
      const answer = await post(`/message/sendbatch${query}`, body, headers);
      assert.equal(answer.status, status, JSON.stringify(answer.body));
      assert.equal(answer.body.status, status);
      assert.match(answer.body.msg, text);
      assert.equal(answer.body.error.status, 'INVALID_ARGUMENT');
    });
  }

  test('POST /message/sendbatch names every violation of a body with its index', async () => {
    const { body } = await post('/message/sendbatch', batch({ payload: '*' }, {}, { channel_id: 1, expire: 'x' }));
    const violations = body.error.details.find((each: { '@type': string }) =>
      each['@type'].endsWith('BadRequest'),
    ).fieldViolations;
    assert.deepEqual(
      violations.map((each: { field: string }) => each.field),
      ['messages[0].payload', 'messages[2].channel_id', 'messages[2].expire'],
    );
  });

  test('POST /message/sendbatch reads its options from the query', async () => {
    for (const mode of ['atomic', 'ATOMIC', 'SEND_MODE_ATOMIC', '2']) {
      const channel_id = fresh();
      const conflict = batch({ channel_id, client_msg_no: 'x' }, { channel_id, client_msg_no: 'x', payload: 'SGo=' });
      const answer = await post(`/message/sendbatch?mode=${mode}`, conflict);
      assert.equal(answer.status, 409, mode);
      assert.equal(answer.body.error.status, 'ALREADY_EXISTS');
    }
    const named = await post('/message/sendbatch?request_id=r1&validate_only=true', batch({ client_msg_no: '' }));
    assert.deepEqual(named.body, [{ message_id: 0, message_seq: 0, client_msg_no: 'r1:0' }]);
    assert.match((await post('/message/sendbatch?validate_only=perhaps', batch({}))).body.msg, /validate_only/);
    assert.match((await post('/message/sendbatch?mode=atomic&mode=atomic', batch({}))).body.msg, /mode.*only once/);
  });

  test('the status of POST /message/sendbatch distinguishes full, partial and no success', async () => {
    const channel_id = fresh();
    const other = { channel_id, payload: 'SGo=' };
    assert.equal((await post('/message/sendbatch', batch({ channel_id }))).status, 200);
    const some = await post('/message/sendbatch', batch(other, { channel_id, client_msg_no: '2' }));
    assert.equal(some.status, 207);
    assert.equal(some.body[0].error.code, 6);
    assert.equal(some.body[0].error.reason, 'CLIENT_MSG_NO_REUSED');
    assert.equal(some.body[0].error.metadata.message_seq, '1');
    const none = await post('/message/sendbatch', batch(other, other));
    assert.equal(none.status, 409);
    assert.equal(none.body.length, 2);
  });
});

describe('POST /message/sendbatch with the object that existing callers send', () => {
  test('a broadcast returns empty fail_uids and reason when every receiver is reached', async () => {
    const [a, b] = [fresh(), fresh()];
    // The body that TangSengDaoDao sends.
    const body = {
      header: { no_persist: 0, red_dot: 1, sync_once: 0 },
      from_uid: 'u_10000',
      subscribers: [a, b, a],
      payload: 'eyJ0eXBlIjoxfQ==',
    };
    const answer = await post('/message/sendbatch', JSON.stringify(body));
    assert.deepEqual([answer.status, answer.body], [200, { fail_uids: [], reason: [] }]);
    const rows = (await readAll(service.databaseUrl)).filter(
      (row) => row.channel.includes(a) || row.channel.includes(b),
    );
    assert.deepEqual(
      rows.map((row) => [row.type, row.seq, row.fromUid]),
      [
        [1, 1, 'u_10000'],
        [1, 1, 'u_10000'],
      ],
    );
  });

  test('a broadcast names the receivers that failed, in order, and reaches the others', async () => {
    const good = fresh();
    const { body } = await post(
      '/message/broadcast',
      JSON.stringify({ from_uid: 'u1', subscribers: ['a@b', good, '', 'x'.repeat(300)], payload: 'SGk=' }),
    );
    assert.deepEqual(body.fail_uids, ['a@b', '', 'x'.repeat(300)]);
    assert.equal(body.reason.length, 3);
    for (const reason of body.reason) assert.match(reason, /^INVALID_FIELD: /);
  });

  test('a broadcast reaches 2,500 users, and a retry by request_id sends nothing twice', async () => {
    const subscribers = Array.from({ length: 2500 }, (_, index) => `many-${index}`);
    const body = JSON.stringify({ from_uid: 'caster', subscribers, payload: 'SGk=', request_id: 'cast1' });
    for (let round = 0; round < 2; round++)
      assert.deepEqual((await post('/message/sendbatch', body)).body, { fail_uids: [], reason: [] });
    assert.equal((await readAll(service.databaseUrl)).filter((row) => row.fromUid === 'caster').length, 2500);
  });

  for (const [what, change] of [
    ['from_uid', { from_uid: '' }],
    ['subscribers', { subscribers: [] }],
    ['payload', { payload: '' }],
  ] as const) {
    test(`a broadcast with an empty ${what} is refused with 400 and a msg that names it`, async () => {
      const answer = await post(
        '/message/sendbatch',
        JSON.stringify({ from_uid: 'u1', subscribers: ['a'], payload: 'SGk=', ...change }),
      );
      assert.equal(answer.status, 400);
      assert.match(answer.body.msg, new RegExp(`^${what}`));
      assert.equal(answer.body.status, 400);
    });
  }
});

describe('POST /message/send', () => {
  test('POST /message/send returns its result at the top level and in data, for both kinds of legacy callers', async () => {
    const { status, body } = await post(
      '/message/send',
      JSON.stringify(draft({ stream_no: '', subscribers: null, setting: 0 })),
    );
    assert.equal(status, 200);
    assert.deepEqual(body, {
      status: 200,
      data: { message_id: body.message_id, message_seq: 1, client_msg_no: '1' },
      message_id: body.message_id,
      message_seq: 1,
      client_msg_no: '1',
    });
  });

  test('POST /message/send without from_uid sends as ____system', async () => {
    const channel_id = fresh();
    assert.equal((await post('/message/send', JSON.stringify(draft({ from_uid: '', channel_id })))).status, 200);
    assert.deepEqual(
      (await readAll(service.databaseUrl)).filter((row) => row.channel === channel_id).map((row) => row.fromUid),
      ['____system'],
    );
  });

  test('POST /message/send refuses with the HTTP status of the reason', async () => {
    const channel_id = fresh();
    await post('/message/send', JSON.stringify(draft({ channel_id })));
    const { status, body } = await post('/message/send', JSON.stringify(draft({ channel_id, payload: 'SGo=' })));
    assert.equal(status, 409);
    assert.equal(body.error.details[0].reason, 'CLIENT_MSG_NO_REUSED');
    assert.equal((await post('/message/send', JSON.stringify(draft({ payload: '' })))).status, 400);
    assert.equal((await post('/message/send', '[]')).status, 400);
  });
});

describe('GET /v1/channels/{channel_type}/{channel_id}/messages', () => {
  const channel_id = 'history';
  const list = async (query: string) => (await get(`/v1/channels/2/${channel_id}/messages?${query}`)).body;
  const seqs = (page: { messages: { message_seq: number }[] }) => page.messages.map((each) => each.message_seq);
  before(async () => {
    await post(
      '/message/sendbatch',
      JSON.stringify(
        Array.from({ length: 25 }, (_, index) =>
          draft({ channel_id, client_msg_no: `${index}`, tag_key: 't', subscribers: ['b', 'a'] }),
        ),
      ),
    );
  });

  const rows: [string, number[], boolean][] = [
    ['limit=3', [1, 2, 3], true],
    ['limit=3&descending=true', [25, 24, 23], true],
    ['after_seq=23', [24, 25], false],
    ['before_seq=3', [1, 2], false],
    ['before_seq=3&descending=true', [2, 1], false],
    ['after_seq=10&before_seq=13', [11, 12], false],
    ['after_seq=25', [], false],
  ];
  for (const [query, wanted, more] of rows) {
    test(`a page of the history with ${query} holds the sequences ${wanted.join(' ') || 'none'}`, async () => {
      const page = await list(query);
      assert.deepEqual([seqs(page), page.more, page.last_seq], [wanted, more, 25]);
    });
  }

  test('the history shows every field that was sent', async () => {
    const [message] = (await list('limit=1')).messages;
    assert.deepEqual(
      { ...message, message_id: 0, timestamp: '' },
      {
        header: { no_persist: 0, red_dot: 0, sync_once: 0 },
        message_id: 0,
        message_seq: 1,
        client_msg_no: '0',
        from_uid: 'u1',
        channel_id,
        channel_type: 2,
        expire: 0,
        timestamp: '',
        payload: 'SGk=',
        subscribers: ['a', 'b'],
        stream_no: '',
        tag_key: 't',
      },
    );
    assert.ok(Math.abs(Date.parse(message.timestamp) - Date.now()) < 60_000);
  });

  test('the history of a channel without messages is empty, by number or name of the channel type', async () => {
    const empty = { messages: [], more: false, last_seq: 0 };
    for (const type of ['2', 'group', 'CHANNEL_TYPE_GROUP'])
      assert.deepEqual((await get(`/v1/channels/${type}/nobody/messages`)).body, empty);
  });

  test('the history of a person channel is read by either order of its two uids', async () => {
    await post('/message/sendbatch', batch({ channel_type: 1, from_uid: 'left', channel_id: 'right' }));
    for (const pair of ['left@right', 'right%40left'])
      assert.equal((await get(`/v1/channels/person/${pair}/messages`)).body.messages.length, 1);
    assert.equal((await get('/v1/channels/1/left/messages')).status, 400);
  });

  test('the history never shows an expired message or a command', async () => {
    const channel_id = fresh();
    await post(
      '/message/sendbatch',
      batch(
        { channel_id, expire: 1, client_msg_no: 'e' },
        { channel_id, client_msg_no: 'k' },
        { channel_id, header: { sync_once: 1 }, client_msg_no: 'c' },
      ),
    );
    const keys = async () =>
      (await get(`/v1/channels/2/${channel_id}/messages`)).body.messages.map(
        (each: { client_msg_no: string }) => each.client_msg_no,
      );
    const until = Date.now() + 60_000;
    let seen = await keys();
    while (seen.includes('e') && Date.now() < until) seen = await keys();
    assert.deepEqual(seen, ['k']);
  });

  test('the history refuses a page that is too large, an invalid bound and an unknown channel type', async () => {
    for (const [query, field] of [
      ['limit=1001', 'limit'],
      ['after_seq=-1', 'after_seq'],
      ['after_seq=9007199254740992', 'after_seq'],
      ['descending=maybe', 'descending'],
    ] as const) {
      const { status, body } = await get(`/v1/channels/2/x/messages?${query}`);
      assert.equal(status, 400, query);
      assert.match(body.msg, new RegExp(`^${field}`));
    }
    for (const type of ['0', '13', 'party'])
      assert.equal((await get(`/v1/channels/${type}/x/messages`)).status, 400, type);
  });
});

describe('the HTTP handler', () => {
  test('GET /v1/server-info returns every limit of the proto with the value of limits.ts', async () => {
    const { body } = await get('/v1/server-info');
    assert.equal(body.limits.batch_messages, 1000);
    for (const { name, localName } of LimitsSchema.fields)
      if (name !== 'request_timeout')
        assert.equal(body.limits[name], (limits as Record<string, number>)[localName], name);
    assert.match(body.version, /^\d+\.\d+\.\d+$/);
    assert.deepEqual(body.caller, { name: '', is_user: false, scopes: ['send', 'read', 'admin', 'metrics'] });
  });

  test('an unknown path is 404, an unsupported method 405 with Allow, and HEAD has no body', async () => {
    assert.deepEqual([(await get('/nope')).status, (await post('/v1/nope', '')).status], [404, 404]);
    const wrong = await get('/message/sendbatch');
    assert.deepEqual([wrong.status, wrong.headers.get('allow')], [405, 'OPTIONS, POST']);
    const head = await get('/v1/server-info', { method: 'HEAD' });
    assert.deepEqual([head.status, head.body], [200, undefined]);
  });

  test('pages, probes and event streams refuse other verbs than GET and HEAD with 405 and Allow', async () => {
    for (const path of [
      '/',
      '/docs',
      '/openapi.json',
      '/console/keys',
      '/metrics',
      '/readyz',
      '/v1/batches/x/events',
    ]) {
      const { status, headers, body } = await post(path, '{}');
      assert.deepEqual([status, headers.get('allow')], [405, 'GET, HEAD, OPTIONS'], path);
      assert.match(body.msg, /^POST is not allowed on this path/);
      const options = await get(path, { method: 'OPTIONS' });
      assert.deepEqual([options.status, options.headers.get('allow')], [204, 'GET, HEAD, OPTIONS'], path);
    }
  });

  test('a URL with a host is served as its path, and its host is checked in place of the header', async () => {
    const statusOf = (target: string, verb = 'GET') =>
      new Promise<string | undefined>((resolve, reject) => {
        const socket = connect(Number(new URL(service.url).port), '127.0.0.1');
        socket.on('error', reject).once('data', (bytes) => {
          resolve(/^HTTP\/1\.1 (\d+)/.exec(bytes.toString('latin1'))?.[1]);
          socket.destroy();
        });
        const headers = 'Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n';
        socket.write(`${verb} ${target} HTTP/1.1\r\n${headers}\r\n{}`);
      });
    for (const path of ['/livez', '/v1/server-info', '/docs', '/metrics'])
      assert.equal(await statusOf(service.url + path), '200', path);
    assert.equal(await statusOf(`${service.url}/sendbatch.v1.MessageService/GetServerInfo`, 'POST'), '200');
    assert.equal(await statusOf('http://evil.test/v1/server-info'), '403');
  });

  test('what is wrong with a path, a query or a header is reported under its own name', async () => {
    for (const [path, headers, field] of [
      ['/v1/channels/2/%ff/messages', {}, 'path'],
      ['/v1/batches/%e0%a4:cancel', {}, 'path'],
      ['/message/send?validate_only=%ff', {}, 'query'],
      ['/message/send', { 'connect-timeout-ms': 'soon' }, 'Connect-Timeout-Ms'],
      ['/message/send', { 'content-encoding': 'br' }, 'Content-Encoding'],
      ['/v1/batches', { 'content-encoding': 'br', 'content-type': 'application/x-ndjson' }, 'Content-Encoding'],
    ] as const) {
      const isRead = path.endsWith('/messages');
      const { body } = isRead ? await get(path) : await post(path, '{}', headers);
      const [violation] = body.error.details.flatMap(
        (each: { fieldViolations?: object[] }) => each.fieldViolations ?? [],
      );
      assert.equal(violation?.field, field, `${path} ${JSON.stringify(body)}`);
    }
  });

  test('an unknown RPC is UNIMPLEMENTED in the trailers of gRPC and in the error format of Connect', async () => {
    const session = http2Connect(service.url);
    const stream = session.request({
      ':method': 'POST',
      ':path': '/sendbatch.v1.MessageService/Nope',
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    stream.end();
    const [headers, flags] = await new Promise<[IncomingHttpHeaders, number, string[]]>((resolve) =>
      stream.on('response', (...both) => resolve(both)),
    );
    session.close();
    assert.ok(flags & http2Constants.NGHTTP2_FLAG_END_STREAM, 'Trailers-Only is one frame');
    assert.deepEqual(
      [headers[':status'], headers['content-type'], headers['grpc-status']],
      [200, 'application/grpc', '12'],
    );
    const connect = await post('/sendbatch.v1.MessageService/Nope', '{}', { 'content-type': 'application/json' });
    assert.deepEqual([connect.status, connect.body.code], [404, 'unimplemented']);
  });

  test('a read is available as a GET over Connect', async () => {
    const message = encodeURIComponent(JSON.stringify({ channelId: 'history', channelType: 2, limit: 1 }));
    const answer = await get(`/sendbatch.v1.MessageService/ListMessages?connect=v1&encoding=json&message=${message}`);
    assert.equal(answer.body.messages[0].messageSeq, '1');
  });

  test('an unknown field of Connect JSON is refused, not ignored', async () => {
    const answer = await post('/sendbatch.v1.MessageService/SendBatch', '{"messages":[],"sendAt":1}', {
      'content-type': 'application/json',
    });
    assert.equal(answer.status, 400);
    assert.match(answer.body.message, /sendAt/);
  });

  test('a CORS preflight from a loopback page is accepted and one from another site is refused', async () => {
    const preflight = (origin: string) =>
      get('/message/sendbatch', {
        method: 'OPTIONS',
        headers: {
          origin,
          'access-control-request-method': 'POST',
          'access-control-request-headers': 'content-type,idempotency-key',
        },
      });
    const ours = await preflight('http://localhost:3000');
    assert.equal(ours.status, 204);
    assert.equal(ours.headers.get('access-control-allow-origin'), 'http://localhost:3000');
    assert.match(ours.headers.get('access-control-allow-headers') ?? '', /idempotency-key/);
    assert.equal((await preflight('https://evil.example')).status, 403);
    const posted = await post('/message/sendbatch', batch({ channel_id: 'from-evil' }), {
      origin: 'https://evil.example',
    });
    assert.equal(posted.status, 403);
    assert.match(posted.body.msg, /ALLOWED_ORIGINS/);
    assert.equal(
      (await readAll(service.databaseUrl)).some((row) => row.channel === 'from-evil'),
      false,
    );
  });

  test('a Host that is not a loopback name is refused (DNS rebinding)', async () => {
    const status = await new Promise((resolve, reject) => {
      const { port } = new URL(service.url);
      httpRequest({ host: '127.0.0.1', port, path: '/v1/server-info', headers: { host: 'evil.example' } }, (response) =>
        resolve(response.resume().statusCode),
      )
        .on('error', reject)
        .end();
    });
    assert.equal(status, 403);
  });

  test('a plain x-request-id is returned, and any other is replaced by a generated one', async () => {
    const echo = async (id: string) =>
      (await get('/v1/server-info', { headers: { 'x-request-id': id } })).headers.get('x-request-id');
    assert.equal(await echo('abc-123'), 'abc-123');
    assert.match((await echo('a b')) ?? '', /^[0-9a-f-]{36}$/);
  });

  test('a truncated body of a client that disconnects stores nothing', async () => {
    const { hostname, port } = new URL(service.url);
    const body = batch({ channel_id: 'half' });
    for (let index = 0; index < 20; index++) {
      const socket = connect(Number(port), hostname);
      await new Promise((resolve) => socket.once('connect', resolve));
      socket.write(
        `POST /message/sendbatch HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body.slice(0, 10 + index)}`,
      );
      socket.destroy();
    }
    assert.equal((await post('/message/sendbatch', batch({ channel_id: 'half' }))).body[0].message_seq, 1);
  });
});
