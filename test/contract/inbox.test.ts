import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { jsonCaller } from '../support/json.ts';
import { startService, type TestService } from '../support/service.ts';
import { query } from '../support/verify.ts';

const payload = Buffer.from('x').toString('base64');

/** Asserts that a position above the head is refused with the true head. */
function assertAhead(
  { status, body }: { status: number; body: { error: { details: object[] } } },
  metadata: object,
): void {
  const [detail] = body.error.details as { reason: string; metadata: object }[];
  assert.deepEqual([status, detail?.reason, detail?.metadata], [400, 'SEQ_AHEAD', metadata]);
}

describe('conversations and commands of a user', () => {
  let service: TestService;
  let call: ReturnType<typeof jsonCaller>;
  before(async () => {
    service = await startService({ sweepIntervalMs: 100, retention: [{ channelType: 9, days: 1 }] });
    call = jsonCaller(service.url);
  });
  after(() => service.stop());
  const post = async (path: string, body: unknown) => {
    const answer = await call.post(path, body);
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    return answer.body;
  };
  let sent = 0;
  const send = (channel_id: string, from_uid: string, more: object = {}) =>
    post('/message/sendbatch', [
      { channel_id, channel_type: 2, from_uid, payload, client_msg_no: `k${sent++}`, header: { red_dot: 1 }, ...more },
    ]);
  const command = { header: { sync_once: 1 } };
  const commands = async (uid: string, message_seq = 0, limit = 0) =>
    (await post('/message/sync', { uid, message_seq, limit })).map(
      (each: { message_seq: number; client_msg_no: string }) => [each.message_seq, each.client_msg_no],
    );
  const conversations = async (uid: string, query = '') =>
    (await call.get(`/v1/users/${uid}/conversations${query}`)).body;
  const unread = async (uid: string) =>
    (await conversations(uid)).conversations.map(
      (each: { channel_id: string; unread_count: number; last_seq: number }) => [
        each.channel_id,
        each.unread_count,
        each.last_seq,
      ],
    );

  test('conversations are listed newest first and count unread red_dot messages of others since joining', async () => {
    await post('/channel', { channel_id: 'g1', channel_type: 2, subscribers: ['a'] });
    await send('g1', 'a');
    await send('g1', 'b');
    await post('/channel/subscriber_add', { channel_id: 'g1', subscribers: ['late'] });
    await send('g1', 'b', { header: { red_dot: 0 } });
    await send('g1', 'b', { subscribers: ['nobody'] });
    await send('g1', 'b');
    await send('a', 'c', { channel_type: 1 });
    assert.deepEqual(await unread('a'), [
      ['c', 1, 1],
      ['g1', 2, 5],
    ]);
    assert.deepEqual(await unread('late'), [['g1', 1, 5]]);
    assert.deepEqual(await unread('c'), [['a', 0, 1]]);
    const [, g1] = (await conversations('a')).conversations;
    assert.deepEqual([g1.last_message.message_seq, g1.read_seq], [5, 0]);
    const read = (uid: string, read_seq: number) =>
      post(`/v1/users/${uid}/conversations:read`, { channel_id: 'g1', channel_type: 2, read_seq });
    await read('a', 2);
    assert.deepEqual((await unread('a'))[1], ['g1', 1, 5]);
    await read('a', 1);
    assert.deepEqual((await unread('a'))[1], ['g1', 1, 5], 'never back');
    await read('a', 0);
    assert.deepEqual((await unread('a'))[1], ['g1', 0, 5]);
    const ahead = await call.post('/v1/users/a/conversations:read', {
      channel_id: 'g1',
      channel_type: 2,
      read_seq: 99,
    });
    assertAhead(ahead, { read_seq: '99', last_seq: '5' });
    await send('g1', 'b');
    assert.deepEqual((await unread('a'))[0], ['g1', 1, 6], 'nothing was noted beyond the end');
    const first = await conversations('a', '?page_size=1');
    const next = await conversations('a', `?page_size=1&page_token=${first.next_page_token}`);
    assert.deepEqual(
      [first.conversations[0].channel_id, next.conversations[0].channel_id, next.next_page_token],
      ['g1', 'c', ''],
    );
    assert.equal(
      (await call.post('/v1/users/z/conversations:read', { channel_id: 'g1', channel_type: 2 })).status,
      403,
    );
  });

  test('a member that rejoins has no unread messages from before, whatever the clock of the instance', async () => {
    const member = (change: 'add' | 'remove', hours = 0) =>
      post(`/channel/subscriber_${change}`, { channel_id: 'g4', subscribers: ['back'] }).then(() =>
        query(service.databaseUrl, `update sendbatch.channel_uid set created_at = created_at + $1 where uid = 'back'`, [
          hours * 3_600_000,
        ]),
      );
    await post('/channel', { channel_id: 'g4', channel_type: 2, subscribers: [] });
    for (const hours of [1, -1]) {
      await member('add', hours);
      const [, , before = 0] = (await unread('back'))[0] ?? [];
      assert.deepEqual(await unread('back'), [['g4', 0, before]], `added by a clock ${hours} h apart`);
      await send('g4', 'b');
      await send('g4', 'b', { ...command, client_msg_no: `in ${hours}` });
      assert.deepEqual(await unread('back'), [['g4', 1, before + 1]]);
      await member('remove');
      await send('g4', 'b');
      await send('g4', 'b', { ...command, client_msg_no: `out ${hours}` });
      assert.deepEqual(await unread('back'), []);
    }
    await member('add', 1);
    await send('g4', 'b', { ...command, client_msg_no: 'again' });
    assert.deepEqual(await unread('back'), [['g4', 0, 4]]);
    assert.deepEqual(
      (await commands('back')).map(([, key]: [number, string]) => key),
      ['again'],
      'what came while it was no member is not for it',
    );
  });

  test('commands to a set of receivers create no conversation', async () => {
    await send('', 'e', { ...command, channel_type: 0, subscribers: ['q', 'r'] });
    await send('q', 'r', { channel_type: 1 });
    assert.deepEqual(await unread('q'), [['r', 1, 1]]);
    assert.equal((await commands('q')).length, 1);
  });

  test('commands are numbered per user, returned until acknowledged and never lost', async () => {
    await post('/channel', { channel_id: 'g2', channel_type: 2, subscribers: ['d', 'e'] });
    await send('g2', 'e', { ...command, client_msg_no: 'c1' });
    await send('d', 'e', { ...command, channel_type: 1, client_msg_no: 'c2' });
    await send('', 'e', { ...command, channel_type: 0, subscribers: ['d', 'f'], client_msg_no: 'c3' });
    await send('g2', 'e', { ...command, subscribers: ['other'], client_msg_no: 'c4' });
    const all = await commands('d');
    assert.deepEqual(all.map(([, key]: [number, string]) => key).sort(), ['c1', 'c2', 'c3']);
    assert.deepEqual(
      all.map(([seq]: [number]) => seq),
      [1, 2, 3],
    );
    assert.deepEqual(await commands('d'), all, 'again, since nothing is acknowledged');
    assert.deepEqual(await commands('d', 1), all.slice(1));
    assert.deepEqual(await commands('d', 0, 2), all.slice(0, 2));
    assert.deepEqual(
      (await commands('f')).map(([, key]: [number, string]) => key),
      ['c3'],
    );
    assert.deepEqual(await commands('e'), [], 'the sender is no receiver');
    await post('/message/syncack', { uid: 'd', last_message_seq: 2 });
    assert.deepEqual(await commands('d'), all.slice(2));
    await send('g2', 'e', { ...command, client_msg_no: 'c5' });
    assert.deepEqual(
      (await commands('d')).map(([seq]: [number]) => seq),
      [3, 4],
    );
    const ahead = await call.post('/message/syncack', { uid: 'd', last_message_seq: 99 });
    assertAhead(ahead, { last_message_seq: '99', last_seq: '4' });
    assertAhead(await call.post('/message/sync', { uid: 'd', message_seq: 5 }), { message_seq: '5', last_seq: '4' });
    assert.deepEqual(await commands('d', 4), []);
    await post('/message/syncack', { uid: 'd', last_message_seq: 4 });
    assert.deepEqual(await commands('d'), []);
    await send('g2', 'e', { ...command, client_msg_no: 'c6' });
    assert.deepEqual(await commands('d'), [[5, 'c6']]);
    const history = await call.get('/v1/channels/2/g2/messages');
    assert.deepEqual(history.body.messages, [], 'they are not in the history');
    assert.equal((await call.post('/message/syncack', { uid: 'd', last_message_seq: 0 })).status, 400);
  });

  test('concurrent syncs number each command once', async () => {
    await post('/channel', { channel_id: 'g3', channel_type: 2, subscribers: ['h'] });
    for (let index = 0; index < 20; index++) await send('g3', 'e', command);
    const answers = await Promise.all(Array.from({ length: 8 }, () => commands('h')));
    for (const answer of answers) assert.deepEqual(answer, answers[0]);
    assert.deepEqual(
      answers[0].map(([seq]: [number]) => seq),
      Array.from({ length: 20 }, (_, index) => index + 1),
    );
  });

  test('the sweeper deletes expired messages once their keys are a day old, and messages over their retention', async () => {
    for (let index = 0; index < 5; index++) await send('sweep', 'a', { expire: 10 });
    for (let index = 0; index < 5; index++) await send('sweep9', 'a', { channel_type: 9 });
    const rowsOf = async (id: string) => {
      const rows = await query(
        service.databaseUrl,
        'select message_seq as seq from sendbatch.message join sendbatch.channel using (channel_key) where channel_id = $1 order by 1',
        [id],
      );
      return rows.map((row) => Number(row.seq));
    };
    const age = async (id: string, seqs: number[]) => {
      await query(
        service.databaseUrl,
        `update sendbatch.message m set accepted_at = accepted_at - 2 * 86400000 from sendbatch.channel c
         where c.channel_key = m.channel_key and c.channel_id = $1 and m.message_seq = any($2::bigint[])`,
        [id, seqs],
      );
      // Marks the channel as not yet swept at this age.
      await query(service.databaseUrl, 'update sendbatch.channel set oldest_at = 0 where channel_id = $1', [id]);
    };
    await age('sweep', [1, 2]);
    await age('sweep9', [1, 2, 3]);
    const until = async (id: string, expected: number[]) => {
      const start = performance.now();
      let rows = await rowsOf(id);
      while (rows.length > expected.length && performance.now() - start < 60_000) rows = await rowsOf(id);
      assert.deepEqual(rows, expected);
    };
    await until('sweep', [3, 4, 5]);
    await until('sweep9', [4, 5]);
  });
});
