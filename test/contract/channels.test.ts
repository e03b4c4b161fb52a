import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { MessageDraftSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import { SendMode } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { jsonCaller } from '../support/json.ts';
import { type Answer, openClients, type ProtocolClient } from '../support/protocols.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, readAll } from '../support/verify.ts';

type Draft = MessageInitShape<typeof MessageDraftSchema>;

const group = { channel_type: 2 };
const draft = (fromUid: string, channelId: string, clientMsgNo: string, more: Draft = {}): Draft => ({
  fromUid,
  channelId,
  channelType: 2,
  clientMsgNo,
  payload: Buffer.from(clientMsgNo),
  ...more,
});
/** Returns `ok` or the reason per message, or the reason of the whole call. */
const outcomesOf = (answer: Answer) =>
  'refused' in answer
    ? `call: ${answer.refused.reason}`
    : answer.results.map((result) => result.refused?.reason ?? 'ok').join(' ');

for (const lanes of [4, 0]) {
  describe(`channels and permission to send, ${lanes === 0 ? 'one transaction each' : 'group commit'}`, () => {
    const settings = { lanes, systemUids: ['system', '____system'] };
    let first: TestService;
    let second: TestService;
    let clients: ProtocolClient[];
    let call: ReturnType<typeof jsonCaller>;
    before(async () => {
      first = await startService(settings);
      second = await startService({ ...settings, databaseUrl: first.databaseUrl });
      // Channels change on one instance, messages are sent to the other.
      call = jsonCaller(first.url);
      clients = openClients(second.url);
    });
    after(async () => {
      for (const client of clients) client.close();
      await assertSound(first.databaseUrl);
      await second.stop();
      await first.stop();
    });
    const ok = async (path: string, body: object) =>
      assert.deepEqual(await call.post(path, body), { status: 200, body: { status: 200 } });

    test('a change of channel or member applies to the next batch on another instance, over every protocol', async () => {
      for (const [index, client] of clients.entries()) {
        const id = `states-${index}`;
        const channel = { channel_id: id, ...group };
        let sent = 0;
        const send = async (fromUid: string) =>
          outcomesOf(await client.send({ messages: [draft(fromUid, id, `${sent++}`)] }));
        const both = async () => `${await send('member')} / ${await send('system')}`;
        assert.equal(await both(), 'CHANNEL_NOT_EXIST / ok', client.name);
        await ok('/channel', channel);
        assert.equal(await both(), 'NOT_SUBSCRIBER / ok');
        await ok('/channel/subscriber_add', { ...channel, subscribers: ['member', 'other'] });
        assert.equal(await both(), 'ok / ok');
        await ok('/channel/blacklist_add', { ...channel, uids: ['member'] });
        assert.equal(await both(), 'IN_DENYLIST / ok');
        await ok('/channel/blacklist_remove', { ...channel, uids: ['member'] });
        await ok('/channel/whitelist_set', { ...channel, uids: ['other'] });
        assert.equal(await both(), 'NOT_IN_ALLOWLIST / ok');
        await ok('/channel/whitelist_set', { ...channel, uids: [] });
        assert.equal(await both(), 'ok / ok');
        await ok('/channel', { channel_id: 'member', channel_type: 1, send_ban: 1 });
        assert.equal(await both(), 'SENDER_BANNED / ok');
        await ok('/channel', { channel_id: 'member', channel_type: 1, send_ban: 0 });
        await ok('/channel/info', { ...channel, ban: 1 });
        assert.equal(await both(), 'CHANNEL_BANNED / ok');
        await ok('/channel/info', channel);
        await ok('/channel/subscriber_remove', { ...channel, subscribers: ['member'] });
        assert.equal(await both(), 'NOT_SUBSCRIBER / ok');
        await ok('/user/systemuids_add', { uids: ['member'] });
        assert.equal(await both(), 'ok / ok');
        await ok('/user/systemuids_remove', { uids: ['member'] });
        await ok('/channel/delete', channel);
        assert.equal(await both(), 'CHANNEL_DISBANDED / CHANNEL_DISBANDED');
      }
    });

    test('the lists of the receiver decide whether a person message is accepted', async () => {
      const [client] = clients;
      assert.ok(client);
      let sent = 0;
      const send = async (from: string, to: string) =>
        outcomesOf(await client.send({ messages: [draft(from, to, `p${sent++}`, { channelType: 1 })] }));
      assert.equal(await send('p1', 'p2'), 'ok');
      await ok('/channel/blacklist_add', { channel_id: 'p2', channel_type: 1, uids: ['p1'] });
      assert.equal(await send('p1', 'p2'), 'IN_DENYLIST');
      assert.equal(await send('p2', 'p1'), 'ok');
      await ok('/channel/blacklist_remove_all', { channel_id: 'p2', channel_type: 1 });
      assert.equal(await send('p1', 'p2'), 'ok');
    });

    test('permission is checked per message, an ATOMIC batch sends all or none, and refusals store nothing', async () => {
      for (const [index, client] of clients.entries()) {
        const [mine, theirs, unknown] = [`mine-${index}`, `theirs-${index}`, `unknown-${index}`];
        await ok('/channel', { channel_id: mine, ...group, subscribers: ['u1'] });
        await ok('/channel', { channel_id: theirs, ...group, subscribers: ['u2'] });
        const messages = [
          draft('u1', mine, '1'),
          draft('u1', theirs, '2'),
          draft('u1', unknown, '3'),
          draft('u1', mine, '4'),
        ];
        const atomic = await client.send({ messages, mode: SendMode.ATOMIC });
        if ('refused' in atomic || !client.name.startsWith('JSON')) {
          assert.ok('refused' in atomic, client.name);
          assert.equal(atomic.refused.reason, 'NOT_SUBSCRIBER');
          assert.deepEqual(atomic.refused.fields, ['messages[1]', 'messages[2]']);
        }
        assert.equal(
          outcomesOf(await client.send({ messages, validateOnly: true })),
          'ok NOT_SUBSCRIBER CHANNEL_NOT_EXIST ok',
        );
        const answer = await client.send({ messages });
        assert.equal(outcomesOf(answer), 'ok NOT_SUBSCRIBER CHANNEL_NOT_EXIST ok');
        assert.deepEqual('results' in answer && answer.results.map((each) => each.messageSeq), [1, 0, 0, 2]);
        assert.equal(
          outcomesOf(await client.send({ messages: [draft('u1', mine, '1')] })),
          'ok',
          'and a repeat is a repeat',
        );
      }
      const stored = (await readAll(first.databaseUrl)).filter((row) => /^(theirs|unknown)-/.test(row.channel));
      assert.deepEqual(stored, []);
    });

    test('permission is checked before duplicates, so a former member learns nothing about a key', async () => {
      const [client] = clients;
      assert.ok(client);
      await ok('/channel', { channel_id: 'secret', ...group, subscribers: ['u1'] });
      assert.equal(outcomesOf(await client.send({ messages: [draft('u1', 'secret', 'k')] })), 'ok');
      await ok('/channel/subscriber_remove', { channel_id: 'secret', ...group, subscribers: ['u1'] });
      assert.equal(outcomesOf(await client.send({ messages: [draft('u1', 'secret', 'k')] })), 'NOT_SUBSCRIBER');
    });

    test('commands require membership of their channel', async () => {
      const [client] = clients;
      assert.ok(client);
      const header = { syncOnce: 1 };
      await ok('/channel', { channel_id: 'commands', ...group, subscribers: ['u1'] });
      const messages = [draft('u1', 'commands', '1', { header }), draft('u2', 'commands', '2', { header })];
      assert.equal(outcomesOf(await client.send({ messages })), 'ok NOT_SUBSCRIBER');
      await ok('/channel/subscriber_add', { channel_id: 'commands', subscribers: ['u2'] });
      assert.equal(outcomesOf(await client.send({ messages })), 'ok ok');
    });

    // Members do not depend on how messages are committed.
    if (lanes > 0)
      test('a channel takes 100,000 members as a set and lists them page by page', async () => {
        const uids = Array.from({ length: 100_000 }, (_, index) => `m${String(index).padStart(6, '0')}`);
        const channel = { channel_id: 'large', ...group };
        await ok('/channel/subscriber_add', { ...channel, subscribers: uids });
        await ok('/channel/subscriber_add', { ...channel, subscribers: ['m000001', 'n', 'n'] });
        const seen: string[] = [];
        let token = '';
        for (let pages = 0; pages < 20; pages++) {
          const { body } = await call.get(`/v1/channels/2/large/members?page_size=10000&page_token=${token}`);
          seen.push(...body.entries.map((entry: { uid: string }) => entry.uid));
          token = body.next_page_token;
          if (token === '') break;
        }
        assert.deepEqual(seen, [...uids, 'n']);
        await ok('/channel/subscriber_add', { ...channel, subscribers: ['only'], reset: 1 });
        const { body } = await call.get('/v1/channels/2/large/members');
        assert.deepEqual([body.entries.length, body.entries[0].uid, body.next_page_token], [1, 'only', '']);
        await ok('/channel/subscriber_remove_all', channel);
        assert.deepEqual((await call.get('/v1/channels/2/large/members')).body.entries, []);
      });

    test('channel flags, lists and system uids can be read, also through the legacy routes', async () => {
      assert.equal((await call.get('/v1/channels/2/never')).status, 404);
      const channel = { channel_id: 'read', ...group };
      await ok('/channel', { ...channel, large: 1, allow_stranger: 1 });
      const { body } = await call.get('/v1/channels/2/read');
      const flags = { large: 1, ban: 0, disband: 0, send_ban: 0, allow_stranger: 1 };
      assert.deepEqual(body, { channel: { channel_id: 'read', channel_type: 2, ...flags } });
      await ok('/channel/whitelist_add', { ...channel, uids: ['b', 'a'] });
      const list = await call.get('/channel/whitelist?channel_id=read&channel_type=2');
      assert.deepEqual(
        list.body.map((entry: { uid: string }) => entry.uid),
        ['a', 'b'],
      );
      assert.ok(Date.parse(list.body[0].created_at) > 1_700_000_000_000);
      await ok('/channel/blacklist_set', { ...channel, uids: ['c'] });
      assert.deepEqual(
        (await call.get('/v1/channels/2/read/denylist')).body.entries.map((each: { uid: string }) => each.uid),
        ['c'],
      );
      await ok('/channel/whitelist_remove_all', channel);
      assert.deepEqual((await call.get('/channel/whitelist?channel_id=read&channel_type=2')).body, []);
      await ok('/user/systemuids_add', { uids: ['helper'] });
      assert.deepEqual((await call.get('/user/systemuids')).body, ['____system', 'helper', 'system']);
      await ok('/user/systemuids_remove', { uids: ['helper', 'system'] });
      assert.deepEqual((await call.get('/user/systemuids')).body, ['____system', 'system']);
    });

    test('an invalid channel request is refused with the field named', async () => {
      const rows: [string, object, string][] = [
        ['/channel', { channel_id: 'a', channel_type: 0 }, 'channel_type'],
        ['/channel', { channel_id: 'a', channel_type: 13 }, 'channel_type'],
        ['/channel', { channel_id: '', channel_type: 2 }, 'channel_id'],
        ['/channel', { channel_id: 'a@b', channel_type: 2 }, 'channel_id'],
        ['/channel', { channel_id: 'a#b', channel_type: 2 }, 'channel_id'],
        ['/channel', { channel_id: 'a', channel_type: 1, subscribers: ['b'] }, 'channel_type'],
        ['/channel', { channel_id: 'a', channel_type: 2, ban: 2 }, 'ban'],
        ['/channel', { channel_id: 1, channel_type: 2 }, 'channel_id'],
        ['/channel/delete', { channel_id: 'a', channel_type: 1 }, 'channel_type'],
        ['/channel/subscriber_add', { channel_id: 'a', channel_type: 2, subscribers: [] }, 'subscribers'],
        ['/channel/subscriber_add', { channel_id: 'a', channel_type: 1, subscribers: ['b'] }, 'channel_type'],
        ['/channel/subscriber_add', { channel_id: 'a', subscribers: ['b'], temp_subscriber: 1 }, 'temp_subscriber'],
        ['/channel/subscriber_remove', { channel_id: 'a', subscribers: [''] }, 'subscribers[0]'],
        ['/channel/blacklist_add', { channel_id: 'a', channel_type: 2, uids: [] }, 'uids'],
        ['/channel/whitelist_add', { channel_id: 'a', channel_type: 2, uids: ['a\0'] }, 'uids[0]'],
      ];
      for (const [path, body, field] of rows) {
        const answer = await call.post(path, body);
        assert.equal(answer.status, 400, `${path} ${JSON.stringify(body)}: ${JSON.stringify(answer.body)}`);
        const [, bad] = answer.body.error.details;
        assert.deepEqual(
          bad.fieldViolations.map((each: { field: string }) => each.field),
          [field],
        );
      }
    });

    test('the flow of legacy callers works: create a group, mute, remove a member, broadcast, delete', async () => {
      const channel = { channel_id: 'flow', ...group };
      const sendAs = async (uid: string, key: string) =>
        (await call.post('/message/send', { ...channel, from_uid: uid, payload: 'SGk=', client_msg_no: key })).status;
      await ok('/channel', { ...channel, large: 0, ban: 0, subscribers: ['owner', 'a', 'b'] });
      assert.deepEqual(
        [await sendAs('owner', '1'), await sendAs('a', '2'), await sendAs('stranger', '3')],
        [200, 200, 403],
      );
      await ok('/channel/whitelist_set', { ...channel, uids: ['owner'] });
      assert.deepEqual([await sendAs('owner', '4'), await sendAs('a', '5')], [200, 403]);
      await ok('/channel/whitelist_set', { ...channel, uids: [] });
      await ok('/channel/subscriber_remove', { ...channel, subscribers: ['b'] });
      assert.deepEqual([await sendAs('a', '6'), await sendAs('b', '7')], [200, 403]);
      await ok('/channel/blacklist_add', { channel_id: 'deaf', channel_type: 1, uids: ['owner'] });
      const { status, body } = await call.post('/message/sendbatch', {
        from_uid: 'owner',
        subscribers: ['a', 'deaf', 'c'],
        payload: 'SGk=',
      });
      assert.deepEqual([status, body.fail_uids], [200, ['deaf']]);
      assert.match(body.reason[0], /^IN_DENYLIST/);
      await ok('/channel/delete', channel);
      const last = await call.post('/message/send', { ...channel, from_uid: 'owner', payload: 'SGk=' });
      assert.deepEqual([last.status, last.body.error.details[0].metadata.reason_code], [403, '24']);
    });
  });
}

describe('PERSON_ALLOWLIST of channels', () => {
  test('PERSON_ALLOWLIST accepts only listed senders, or any sender when the receiver allows strangers', async () => {
    const service = await startService({ systemUids: [], personAllowlist: true });
    const call = jsonCaller(service.url);
    const send = async (from: string, to: string) =>
      (await call.post('/message/send', { channel_id: to, channel_type: 1, from_uid: from, payload: 'SGk=' })).status;
    assert.equal(await send('a', 'b'), 403);
    await call.post('/channel/whitelist_add', { channel_id: 'b', channel_type: 1, uids: ['a'] });
    await call.post('/channel', { channel_id: 'c', channel_type: 1, allow_stranger: 1 });
    assert.deepEqual([await send('a', 'b'), await send('b', 'a'), await send('a', 'c')], [200, 403, 200]);
    await service.stop();
  });
});
