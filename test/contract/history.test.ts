import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createClient } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import pg from 'pg';
import { MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { jsonCaller } from '../support/json.ts';
import { startService, type TestService } from '../support/service.ts';
import { query } from '../support/verify.ts';

const group = { channel_type: 2 };
const text = (payload: string) => Buffer.from(payload).toString('base64');

describe('history', () => {
  let service: TestService;
  let call: ReturnType<typeof jsonCaller>;
  before(async () => {
    service = await startService();
    call = jsonCaller(service.url);
  });
  after(() => service.stop());

  const send = async (messages: object[]) => {
    const { status, body } = await call.post('/message/sendbatch', messages);
    assert.equal(status, 200, JSON.stringify(body));
    return body as { message_id: number; message_seq: number; client_msg_no: string }[];
  };
  const fill = (channel_id: string, count: number, more: object = {}) =>
    send(
      Array.from({ length: count }, (_, index) => ({
        ...group,
        channel_id,
        from_uid: `u${index % 2}`,
        client_msg_no: `k${index + 1}`,
        payload: text(`m${index + 1}`),
        ...more,
      })),
    );
  const seqs = (body: { messages: { message_seq: number }[] }) => body.messages.map((each) => each.message_seq);

  test('history can be filtered by tag, stream, sender and time', async () => {
    const channel_id = 'filters';
    const base = { ...group, channel_id, payload: text('x') };
    await send([
      { ...base, from_uid: 'a', tag_key: 'news' },
      { ...base, from_uid: 'b', stream_no: 's1' },
      { ...base, from_uid: 'a', tag_key: 'news', stream_no: 's1' },
    ]);
    const list = async (query: string) => seqs((await call.get(`/v1/channels/2/${channel_id}/messages?${query}`)).body);
    assert.deepEqual(await list('tag_key=news'), [1, 3]);
    assert.deepEqual(await list('stream_no=s1'), [2, 3]);
    assert.deepEqual(await list('from_uid=a&stream_no=s1'), [3]);
    assert.deepEqual(await list('tag_key=other'), []);
    assert.deepEqual(await list('since=2020-01-01T00:00:00Z&until=2100-01-01T00:00:00Z'), [1, 2, 3]);
    assert.deepEqual(await list('until=2020-01-01T00:00:00Z'), []);
  });

  test('history shows a message with subscribers only to them and the sender', async () => {
    const channel_id = 'private';
    await call.post('/channel', { ...group, channel_id, subscribers: ['a', 'b', 'c'] });
    const base = { ...group, channel_id, from_uid: 'a', payload: text('x') };
    await send([base, { ...base, subscribers: ['b'] }]);
    const list = async (uid: string) => seqs((await call.get(`/v1/channels/2/${channel_id}/messages?uid=${uid}`)).body);
    assert.deepEqual(
      [await list('a'), await list('b'), await list('c'), await list('')],
      [[1, 2], [1, 2], [1], [1, 2]],
    );
    assert.equal((await call.get(`/v1/channels/2/${channel_id}/messages?uid=d`)).status, 403);
    const byNumber = await call.post('/messages', { ...group, channel_id, login_uid: 'c', message_seqs: [1, 2] });
    assert.deepEqual(seqs(byNumber.body), [1]);
  });

  test('messagesync supports both pull modes with bounds and more, in the legacy format', async () => {
    const channel_id = 'legacy';
    await call.post('/channel', { ...group, channel_id, subscribers: ['u0', 'u1'] });
    await fill(channel_id, 10, { header: { no_persist: 0, red_dot: 1, sync_once: 0 } });
    const sync = async (more: object) => {
      const { status, body } = await call.post('/channel/messagesync', {
        ...group,
        channel_id,
        login_uid: 'u0',
        ...more,
      });
      assert.equal(status, 200, JSON.stringify(body));
      return body;
    };
    const rows: [object, number[], number][] = [
      [{ limit: 3 }, [8, 9, 10], 1],
      [{}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0],
      [{ start_message_seq: 5, limit: 3 }, [3, 4, 5], 1],
      [{ start_message_seq: 5, end_message_seq: 2, limit: 10 }, [3, 4, 5], 0],
      [{ start_message_seq: 2, end_message_seq: 5, limit: 10 }, [], 0],
      [{ start_message_seq: 5, limit: 3, pull_mode: 1 }, [5, 6, 7], 1],
      [{ start_message_seq: 5, end_message_seq: 7, limit: 10, pull_mode: 1 }, [5, 6], 0],
      [{ start_message_seq: 9, limit: 10, pull_mode: 1 }, [9, 10], 0],
      [{ start_message_seq: 11, limit: 10, pull_mode: 1 }, [], 0],
      [{ limit: 100_000 }, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0],
    ];
    for (const [more, expected, rest] of rows) {
      const body = await sync(more);
      assert.deepEqual([seqs(body), body.more], [expected, rest], JSON.stringify(more));
    }
    const body = await sync({ start_message_seq: 1, end_message_seq: 2, limit: 1, pull_mode: 1 });
    const [message] = body.messages;
    assert.equal(message.message_idstr, String(message.message_id));
    assert.ok(Math.abs(message.timestamp - Date.now() / 1000) < 60);
    assert.deepEqual(
      { ...message, message_id: 0, message_idstr: '', timestamp: 0 },
      {
        header: { no_persist: 0, red_dot: 1, sync_once: 0 },
        setting: 0,
        message_id: 0,
        message_idstr: '',
        client_msg_no: 'k1',
        message_seq: 1,
        from_uid: 'u0',
        channel_id,
        channel_type: 2,
        expire: 0,
        timestamp: 0,
        payload: text('m1'),
        stream_no: '',
      },
    );
    assert.deepEqual([body.start_message_seq, body.end_message_seq], [1, 2]);
    const unknown = await call.post('/channel/messagesync', { channel_id: 'nobody', channel_type: 6, login_uid: 'u0' });
    assert.deepEqual([unknown.status, unknown.body.messages], [200, []]);
    assert.equal(
      (await call.post('/channel/messagesync', { ...group, channel_id, login_uid: 'stranger' })).status,
      403,
    );
  });

  test('history of a person channel is read by the uid of the other user', async () => {
    await send([{ channel_id: 'pb', channel_type: 1, from_uid: 'pa', payload: text('hi') }]);
    for (const [login_uid, channel_id] of [
      ['pa', 'pb'],
      ['pb', 'pa'],
      ['pa', 'pa@pb'],
    ]) {
      const { body } = await call.post('/channel/messagesync', { login_uid, channel_id, channel_type: 1 });
      assert.deepEqual(
        body.messages.map((each: { channel_id: string }) => each.channel_id),
        [login_uid === 'pa' ? 'pb' : 'pa'],
      );
      const last = await call.get(
        `/channel/max_message_seq?channel_type=1&channel_id=${channel_id}&login_uid=${login_uid}`,
      );
      assert.deepEqual(last.body, { message_seq: 1 });
    }
    assert.equal((await call.get('/channel/max_message_seq?channel_type=2&channel_id=nobody')).body.message_seq, 0);
  });

  test('messages are found by sequence, id and key, also among expired messages', async () => {
    const channel_id = 'find';
    const sent = await fill(channel_id, 200);
    await query(
      service.databaseUrl,
      `delete from sendbatch.message m using sendbatch.channel c where c.channel_key = m.channel_key and c.channel_id = $1 and m.message_seq % 7 = 3`,
      [channel_id],
    );
    const kept = sent.filter((each) => each.message_seq % 7 !== 3);
    const find = async (more: object) => seqs((await call.post('/messages', { ...group, channel_id, ...more })).body);
    assert.deepEqual(
      await find({ message_ids: sent.map((each) => each.message_id) }),
      kept.map((each) => each.message_seq),
    );
    assert.deepEqual(await find({ message_ids: [1, 2 ** 53 - 1] }), []);
    assert.deepEqual(
      await find({ message_seqs: [5, 1, 5, 999], client_msg_nos: ['k9', 'none'], message_ids: [kept[0]?.message_id] }),
      [1, 5, 9],
    );
  });

  test('reads and other calls have separate connections, so neither can exhaust those of the other', async () => {
    await fill('shares', 2);
    const client = new pg.Client({ connectionString: service.databaseUrl });
    await client.connect();
    const rows: [string, () => Promise<{ status: number }>, () => Promise<{ status: number }>][] = [
      [
        'read_cursor',
        () => call.get('/v1/users/u0/conversations'),
        () =>
          call.post('/message/sendbatch', [{ ...group, channel_id: 'new share', from_uid: 'a', payload: text('x') }]),
      ],
      ['template', () => call.get('/v1/templates'), () => call.get('/v1/channels/2/shares/messages')],
    ];
    for (const [table, held, other] of rows) {
      await client.query(`begin; lock table sendbatch.${table} in access exclusive mode`);
      const waiting = Array.from({ length: 20 }, held);
      assert.equal((await other()).status, 200, `while ${table} is held`);
      await client.query('commit');
      for (const each of waiting) assert.equal((await each).status, 200);
    }
    await client.end();
  });

  test('history never returns an expired message', async () => {
    const channel_id = 'expiring';
    await send([
      { ...group, channel_id, from_uid: 'a', payload: text('short'), expire: 1 },
      { ...group, channel_id, from_uid: 'a', payload: text('long') },
    ]);
    const sent = performance.now();
    for (let found = [1, 2]; found.length === 2; ) {
      const askedAfter = performance.now() - sent;
      found = seqs((await call.get(`/v1/channels/2/${channel_id}/messages`)).body);
      assert.deepEqual(found, askedAfter < 1500 && found.length === 2 ? [1, 2] : [2], `after ${askedAfter} ms`);
    }
    assert.deepEqual(seqs((await call.post('/messages', { ...group, channel_id, message_seqs: [1, 2] })).body), [2]);
  });

  test('a cursor before the retained messages is refused with the sequence to continue from', async () => {
    const channel_id = 'swept';
    await fill(channel_id, 10);
    await query(
      service.databaseUrl,
      `delete from sendbatch.message m using sendbatch.channel c where c.channel_key = m.channel_key and c.channel_id = $1 and m.message_seq <= 6`,
      [channel_id],
    );
    const path = `/v1/channels/2/${channel_id}/messages`;
    const old = await call.get(`${path}?after_seq=3`);
    assert.deepEqual(
      [old.status, old.body.error.details[0].reason, old.body.error.details[0].metadata.first_seq],
      [400, 'SEQ_EXPIRED', '7'],
    );
    assert.deepEqual(seqs((await call.get(`${path}?after_seq=6`)).body), [7, 8, 9, 10]);
    assert.deepEqual(seqs((await call.get(path)).body), [7, 8, 9, 10]);
  });

  test('a history page of large payloads fits the default limit of gRPC clients and sets more', async () => {
    const channel_id = 'large-page';
    for (let batch = 0; batch < 5; batch++)
      await send(
        Array.from({ length: 20 }, () => ({
          ...group,
          channel_id,
          from_uid: 'a',
          payload: Buffer.alloc(60_000).toString('base64'),
        })),
      );
    const client = createClient(
      MessageService,
      createConnectTransport({ baseUrl: service.url, httpVersion: '1.1', useHttpGet: true }),
    );
    let after = 0n;
    let pages = 0;
    for (let more = true; more && pages < 10; pages++) {
      const page = await client.listMessages({ channelId: channel_id, channelType: 2, afterSeq: after, limit: 1000 });
      assert.equal(page.messages[0]?.messageSeq, after + 1n);
      after = page.messages.at(-1)?.messageSeq ?? after;
      more = page.more;
    }
    assert.deepEqual([after, pages], [100n, 2]);
  });
});
