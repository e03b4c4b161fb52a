import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { jsonCaller } from '../support/json.ts';
import { startService, type TestService } from '../support/service.ts';

const base64 = (text: string) => Buffer.from(text).toString('base64');

describe('legacy routes', () => {
  let service: TestService;
  let call: ReturnType<typeof jsonCaller>;
  before(async () => {
    service = await startService();
    call = jsonCaller(service.url);
  });
  after(() => service.stop());
  const send = async (message: object) => {
    const { status, body } = await call.post('/message/send', {
      header: { red_dot: 1 },
      from_uid: 'system',
      payload: base64('Hi'),
      ...message,
    });
    assert.equal(status, 200, JSON.stringify(body));
    return body.data as { message_id: number; message_seq: number; client_msg_no: string };
  };

  test('GET /channel/whitelist returns all entries with ids, uids and RFC 3339 times', async () => {
    const channel = { channel_id: 'listed', channel_type: 2 };
    const uids = Array.from({ length: 1500 }, (_, index) => `u${String(index).padStart(4, '0')}`);
    const before = Date.now();
    await call.post('/channel/whitelist_set', { ...channel, uids });
    const { status, body } = await call.get('/channel/whitelist?channel_id=listed&channel_type=2');
    assert.equal(status, 200);
    assert.deepEqual(
      body.map((each: { uid: string }) => each.uid),
      uids,
    );
    for (const { id, created_at, updated_at } of body.slice(0, 10)) {
      assert.ok(Number.isSafeInteger(id) && id > 0, String(id));
      for (const time of [created_at, updated_at]) {
        assert.match(time, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/);
        assert.ok(Math.abs(Date.parse(time) - before) < 3_600_000, time);
      }
    }
    assert.equal(new Set(body.map((each: { id: number }) => each.id)).size, uids.length);
    assert.deepEqual((await call.get('/channel/whitelist?channel_id=nobody&channel_type=2')).body, []);
    // The new route has pages and numeric times.
    const page = await call.get('/v1/channels/2/listed/allowlist?page_size=1');
    assert.equal(typeof page.body.entries[0].created_at, 'number');
  });

  test('POST /message finds a message by id or key, and returns 404 in the body of a 200 answer', async () => {
    const channel = { channel_id: 'found', channel_type: 2 };
    const first = await send({ ...channel, client_msg_no: 'key-1' });
    for (const by of [{ message_id: first.message_id }, { client_msg_no: 'key-1' }]) {
      const { status, body } = await call.post('/message', { ...channel, ...by, login_uid: '' });
      assert.equal(status, 200);
      assert.deepEqual(
        [body.message_id, body.message_idstr, body.message_seq, body.client_msg_no, body.payload, body.channel_id],
        [first.message_id, String(first.message_id), 1, 'key-1', base64('Hi'), 'found'],
      );
    }
    for (const by of [{ message_id: 1 }, { client_msg_no: 'no' }])
      assert.deepEqual(await call.post('/message', { ...channel, ...by }), { status: 200, body: { status: 404 } });
    const neither = await call.post('/message', channel);
    assert.equal(neither.status, 400);
    assert.match(neither.body.msg, /message_id: or client_msg_no is required/);
    // In a person channel the reader sees the uid of the other user.
    const person = await send({ from_uid: 'pa', channel_id: 'pb', channel_type: 1, client_msg_no: 'key-2' });
    const mine = { login_uid: 'pb', channel_id: 'pa', channel_type: 1, message_id: person.message_id };
    assert.equal((await call.post('/message', mine)).body.channel_id, 'pa');
    // Connect JSON does not serve GetMessage, whose JSON answer has a legacy form.
    const rpc = await call.post('/sendbatch.v1.MessageService/GetMessage', {
      channelId: 'found',
      channelType: 2,
      messageId: '1',
    });
    assert.equal(rpc.status, 415);
  });

  test('POST /conversation/sync returns conversations with their last messages', async () => {
    const uid = 'sync-user';
    await call.post('/channel', { channel_id: 'sync-group', channel_type: 2, subscribers: [uid, 'other'] });
    for (const text of ['1', '2', '3'])
      await send({
        channel_id: 'sync-group',
        channel_type: 2,
        from_uid: 'other',
        payload: base64(text),
        client_msg_no: `g${text}`,
      });
    await send({ from_uid: 'friend', channel_id: uid, channel_type: 1, payload: base64('p'), client_msg_no: 'p1' });
    const sync = async (more: object) => {
      const { status, body } = await call.post('/conversation/sync', {
        uid,
        version: 0,
        last_msg_seqs: '',
        msg_count: 2,
        ...more,
      });
      assert.equal(status, 200, JSON.stringify(body));
      return body;
    };
    const all = await sync({});
    assert.deepEqual(
      all.map((each: { channel_id: string }) => each.channel_id),
      ['friend', 'sync-group'],
    );
    const group = all[1];
    assert.deepEqual(Object.keys(group).sort(), [
      ...['channel_id', 'channel_type', 'last_client_msg_no', 'last_msg_seq', 'offset_msg_seq', 'readed_to_msg_seq'],
      ...['recents', 'timestamp', 'unread', 'version'],
    ]);
    assert.deepEqual(
      [group.channel_type, group.unread, group.last_msg_seq, group.last_client_msg_no, group.readed_to_msg_seq],
      [2, 3, 3, 'g3', 0],
    );
    assert.deepEqual(
      group.recents.map((each: { message_seq: number; payload: string }) => [each.message_seq, each.payload]),
      [
        [3, base64('3')],
        [2, base64('2')],
      ],
    );
    assert.ok(Math.abs(group.timestamp - Date.now() / 1000) < 3600 && Number.isSafeInteger(group.version));
    // Conversations the client has are left out, except for the messages it lacks.
    const since = await sync({ last_msg_seqs: 'sync-group:2:2|friend:1:1|' });
    assert.deepEqual(
      since.map((each: { channel_id: string; recents: unknown[] }) => [each.channel_id, each.recents.length]),
      [['sync-group', 1]],
    );
    assert.deepEqual(await sync({ msg_count: 0 }), []);
    assert.deepEqual((await sync({ exclude_channel_types: [2] })).length, 1);
    assert.deepEqual((await sync({ exclude_channel_types: [2], last_msg_seqs: 'sync-group:2:1' })).length, 2);
    const pages = [
      await sync({ page: 1, page_size: 1 }),
      await sync({ page: 2, page_size: 1 }),
      await sync({ page: 3, page_size: 1 }),
    ];
    assert.deepEqual(
      pages.map((page) => page.map((each: { channel_id: string }) => each.channel_id)),
      [['friend'], ['sync-group'], []],
    );
    const bad = await call.post('/conversation/sync', { uid, msg_count: 1, last_msg_seqs: 'sync-group:2' });
    assert.deepEqual([bad.status, /last_msg_seqs/.test(bad.body.msg)], [400, true]);
    // A position that this database does not have would hide everything up to it.
    const ahead = await call.post('/conversation/sync', { uid, msg_count: 1, last_msg_seqs: 'sync-group:2:99' });
    const [why] = ahead.body.error.details;
    assert.deepEqual([ahead.status, why.reason, why.metadata.last_msg_seqs], [400, 'SEQ_AHEAD', '99']);

    // POST /conversations/clearUnread with the legacy body.
    assert.deepEqual(
      await call.post('/conversations/clearUnread', { uid, channel_id: 'sync-group', channel_type: 2, message_seq: 0 }),
      {
        status: 200,
        body: { status: 200 },
      },
    );
    assert.deepEqual(await call.post('/conversations/clearUnread', { uid, channel_id: 'friend', channel_type: 1 }), {
      status: 200,
      body: { status: 200 },
    });
    assert.deepEqual(
      (await sync({})).map((each: { unread: number; readed_to_msg_seq: number }) => [
        each.unread,
        each.readed_to_msg_seq,
      ]),
      [
        [0, 1],
        [0, 3],
      ],
    );
    assert.deepEqual(await sync({ only_unread: 1 }), []);
    assert.deepEqual(await sync({ version: group.version }), []);
  });

  test('POST /user/token, GET /route and GET /health return the fields that legacy callers read', async () => {
    const ok = { status: 200, body: { status: 200 } };
    assert.deepEqual(await call.post('/user/token', { uid: 'ann', token: 't', device_flag: 0, device_level: 1 }), ok);
    assert.equal((await call.post('/user/token', { token: 't' })).status, 400);
    const route = { tcp_addr: '', ws_addr: '', wss_addr: '' };
    for (const query of ['', '?uid=ann', '?uid=ann&intranet=1'])
      assert.deepEqual(await call.get(`/route${query}`), { status: 200, body: route });
    assert.deepEqual(await call.get('/health'), { status: 200, body: { status: 'ok' } });
  });

  test('POST /user/systemuids_add and _remove accept an empty list, which changes nothing', async () => {
    const uids = (await call.get('/user/systemuids')).body;
    for (const path of ['/user/systemuids_add', '/user/systemuids_remove'])
      for (const body of [{ uids: [] }, {}])
        assert.deepEqual(await call.post(path, body), { status: 200, body: { status: 200 } });
    assert.deepEqual((await call.get('/user/systemuids')).body, uids);
  });

  test('POST /user/systemuids_add refuses more system uids than one answer lists', async () => {
    const before = (await call.get('/user/systemuids')).body;
    const uids = Array.from({ length: 6000 }, (_, index) => `helper-${index}`);
    const more = uids.map((uid) => `more-${uid}`);
    try {
      assert.equal((await call.post('/user/systemuids_add', { uids })).status, 200);
      const { status, body } = await call.post('/user/systemuids_add', { uids: more });
      assert.equal(status, 413);
      const { reason, metadata } = body.error.details[0];
      assert.deepEqual([reason, metadata.limit, metadata.actual], ['BATCH_TOO_LARGE', '10000', '12000']);
    } finally {
      await call.post('/user/systemuids_remove', { uids });
    }
    assert.deepEqual((await call.get('/user/systemuids')).body, before);
  });

  test('field names of legacy bodies are case-insensitive, as in Go', async () => {
    const { status, body } = await call.post('/message/sendbatch', [
      {
        Header: { RED_DOT: 1 },
        From_UID: 'system',
        ChannelId: 'anycase',
        CHANNEL_TYPE: 2,
        Payload: base64('Hi'),
        unknown: 1,
      },
    ]);
    assert.equal(status, 200, JSON.stringify(body));
    assert.equal(body[0].message_seq, 1);
    const twice = await call.post('/message/send', {
      from_uid: 'a',
      From_Uid: 'b',
      channel_id: 'anycase',
      channel_type: 2,
      payload: 'SGk=',
    });
    assert.deepEqual([twice.status, /from_uid: is given twice/.test(twice.body.msg)], [400, true]);
  });
});
