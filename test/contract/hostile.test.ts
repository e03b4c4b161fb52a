import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { seedOf } from '../support/seed.ts';
import { startService, type TestService } from '../support/service.ts';
import { readAll } from '../support/verify.ts';

let service: TestService;
before(async () => {
  service = await startService();
});
after(() => service.stop());

const post = (path: string, body: Uint8Array<ArrayBuffer> | string, headers: Record<string, string> = {}) =>
  fetch(service.url + path, { method: 'POST', body, headers });
const rpc = '/sendbatch.v1.MessageService/SendBatch';

/** Prefixes a message with its gRPC envelope. */
function frame(bytes: Uint8Array, packed = false): Uint8Array<ArrayBuffer> {
  const head = Buffer.alloc(5);
  head.writeUInt8(packed ? 1 : 0);
  head.writeUInt32BE(bytes.length, 1);
  return new Uint8Array(Buffer.concat([head, bytes]));
}

describe('malformed requests', () => {
  const garbage = new Uint8Array(Buffer.from('0a04ffffffff', 'hex'));
  const invalidUtf8 = new Uint8Array(Buffer.from('0a041a02ff61', 'hex'));
  const bomb = gzipSync(Buffer.alloc(64 * 1024 * 1024));
  const rows: [string, Uint8Array<ArrayBuffer>, Record<string, string>, number?][] = [
    ['garbage as Protobuf over Connect', garbage, { 'content-type': 'application/proto' }],
    ['a string of invalid UTF-8 in Protobuf', invalidUtf8, { 'content-type': 'application/proto' }],
    ['garbage as Protobuf over gRPC-Web', frame(garbage), { 'content-type': 'application/grpc-web+proto' }],
    [
      'a frame that is longer than its body',
      new Uint8Array([0, 0, 0, 0, 99, 1]),
      { 'content-type': 'application/grpc-web+proto' },
    ],
    ['17 MiB over Connect', new Uint8Array(17 * 1024 * 1024), { 'content-type': 'application/proto' }, 429],
    ['17 MiB over gRPC-Web', frame(new Uint8Array(17 * 1024 * 1024)), { 'content-type': 'application/grpc-web+proto' }],
    [
      'a gzip bomb over Connect',
      new Uint8Array(bomb),
      { 'content-type': 'application/proto', 'content-encoding': 'gzip' },
      429,
    ],
    [
      'a gzip bomb over gRPC-Web',
      frame(bomb, true),
      { 'content-type': 'application/grpc-web+proto', 'grpc-encoding': 'gzip' },
    ],
    [
      'deeply nested JSON over Connect',
      new Uint8Array(Buffer.from(`{"messages":${'['.repeat(5000)}${']'.repeat(5000)}}`)),
      { 'content-type': 'application/json' },
    ],
    ['an unknown codec', new Uint8Array(3), { 'content-type': 'application/xml' }, 415],
  ];
  for (const [what, body, headers, expected = 400] of rows) {
    test(`${what}: the request is refused, nothing is stored and the service keeps serving`, async () => {
      const response = await post(rpc, body, headers);
      const status = response.headers.get('grpc-status') ?? (await trailerOf(response));
      // gRPC's table of statuses allows INTERNAL for unparsable Protobuf; Connect has no such rule.
      if (status === undefined) assert.equal(response.status, expected);
      else assert.ok(['3', '8', '13'].includes(status), `grpc-status ${status}`);
      assert.deepEqual(await readAll(service.databaseUrl), []);
      assert.equal((await fetch(`${service.url}/v1/server-info`)).status, 200);
    });
  }

  /** gRPC-Web puts its trailers into the body. */
  async function trailerOf(response: Response): Promise<string | undefined> {
    return /grpc-status: ?(\d+)/i.exec(Buffer.from(await response.arrayBuffer()).toString('latin1'))?.[1];
  }
});

describe('random JSON', () => {
  const text = fc.oneof(
    fc.string(),
    fc.constantFrom('u1', 'SGk=', '', 'a@b', "'; drop table sendbatch.message; --", '\u0000', '\u202e', '__proto__'),
  );
  const field = fc.oneof(
    text,
    fc.integer(),
    fc.double(),
    fc.boolean(),
    fc.constant(null),
    fc.jsonValue({ maxDepth: 2 }),
  );
  const draft = fc.record(
    {
      header: field,
      client_msg_no: field,
      from_uid: field,
      channel_id: field,
      channel_type: field,
      expire: field,
      payload: field,
      subscribers: fc.oneof(field, fc.array(text)),
      stream_no: field,
      tag_key: field,
    },
    { requiredKeys: [] },
  );
  const plausible = fc.record({
    from_uid: text,
    channel_id: text,
    channel_type: fc.integer({ min: 0, max: 13 }),
    payload: fc.constantFrom('SGk=', '*'),
    client_msg_no: text,
    tag_key: text,
  });
  const body = fc.oneof(
    fc.jsonValue(),
    fc.array(draft, { maxLength: 3 }),
    fc.array(plausible, { minLength: 1, maxLength: 3 }),
    draft,
  );

  for (const path of ['/message/sendbatch', '/message/send', '/message/broadcast', rpc]) {
    test(`random JSON to ${path} gets success or a client error, never a server error`, async (context) => {
      await fc.assert(
        fc.asyncProperty(body, async (json) => {
          const response = await post(path, JSON.stringify(json), { 'content-type': 'application/json' });
          const answer = await response.text();
          assert.ok(response.status < 500, `${response.status} ${answer}`);
          JSON.parse(answer);
        }),
        { seed: seedOf(context), numRuns: 300 },
      );
    });
  }

  test('random values in the path and the query of a read never cause a server error', async (context) => {
    await fc.assert(
      fc.asyncProperty(text, text, text, async (type, id, value) => {
        if (!type.isWellFormed() || !id.isWellFormed()) return;
        const path = `/v1/channels/${encodeURIComponent(type)}/${encodeURIComponent(id)}/messages?limit=${encodeURIComponent(value.toWellFormed())}`;
        const response = await fetch(service.url + path);
        assert.ok(response.status < 500, `${path}: ${response.status} ${await response.text()}`);
        await response.arrayBuffer().catch(() => {});
      }),
      { seed: seedOf(context), numRuns: 200 },
    );
  });
});
