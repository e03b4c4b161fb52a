import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { SignJWT } from 'jose';
import { ChannelType, type MessageDraftSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import { SendMode } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { createKeys } from '../../src/auth/api-keys.ts';
import type { Scope } from '../../src/messages/caller.ts';
import { openStore } from '../support/database.ts';
import { jsonCaller } from '../support/json.ts';
import { openClients, type ProtocolClient, said } from '../support/protocols.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound } from '../support/verify.ts';

type Draft = MessageInitShape<typeof MessageDraftSchema>;

let sent = 0;
const draft = (fromUid: string, channelType: ChannelType, channelId: string, more: Draft = {}): Draft => ({
  fromUid,
  channelId,
  channelType,
  clientMsgNo: `k${sent++}`,
  payload: Buffer.from('x'),
  ...more,
});
const command = (fromUid: string, subscribers: string[], noPersist = 0): Draft =>
  draft(fromUid, 0, '', { header: { syncOnce: 1, noPersist }, subscribers });
const systemUids = ['system'];

for (const lanes of [4, 0]) {
  describe(`bans and lists, ${lanes === 0 ? 'one transaction each' : 'group commit'}`, () => {
    let service: TestService;
    let clients: ProtocolClient[];
    let call: ReturnType<typeof jsonCaller>;
    before(async () => {
      service = await startService({ lanes, systemUids });
      clients = openClients(service.url);
      call = jsonCaller(service.url);
    });
    after(async () => {
      for (const client of clients) client.close();
      await assertSound(service.databaseUrl);
      await service.stop();
    });
    const ok = async (path: string, body: object) =>
      assert.deepEqual(await call.post(path, body), { status: 200, body: { status: 200 } });

    test('customer service, info, visitor and agent channels obey the bans and lists of the channel', async () => {
      const types = [
        [3, 'desk', 'c'],
        [6, 'news', 'c'],
        [10, 'v', 'v'],
        [11, 'u@bot', 'u'],
      ] as const;
      // Each type uses another protocol.
      for (const [index, [type, id, sender]] of types.entries()) {
        const client = clients[index + 1] as ProtocolClient;
        const channel = { channel_id: id, channel_type: type };
        const both = async () =>
          said(await client.send({ messages: [draft(sender, type, id), draft('system', type, id)] }));
        assert.equal(await both(), 'ok ok', `${client.name}, type ${type}`);
        for (const flag of ['ban', 'send_ban']) {
          await ok('/channel/info', { ...channel, [flag]: 1 });
          assert.equal(await both(), 'CHANNEL_BANNED ok', `${flag} of type ${type}`);
        }
        await ok('/channel/info', channel);
        await ok('/channel/blacklist_add', { ...channel, uids: [sender] });
        assert.equal(await both(), 'IN_DENYLIST ok');
        await ok('/channel/blacklist_remove', { ...channel, uids: [sender] });
        await ok('/channel/whitelist_add', { ...channel, uids: ['other'] });
        assert.equal(await both(), 'NOT_IN_ALLOWLIST ok');
        await ok('/channel/whitelist_add', { ...channel, uids: [sender] });
        assert.equal(await both(), 'ok ok');
        await ok('/channel/whitelist_remove_all', channel);
        await ok('/channel', { channel_id: sender, channel_type: 1, send_ban: 1 });
        assert.equal(await both(), 'SENDER_BANNED ok');
        await ok('/channel', { channel_id: sender, channel_type: 1 });
        assert.equal(await both(), 'ok ok');
      }
    });

    test('the denylist of a user applies to commands for that user and to agent channels', async () => {
      await ok('/channel/blacklist_add', { channel_id: 'bob', channel_type: 1, uids: ['alice'] });
      for (const client of clients) {
        for (const noPersist of [0, 1]) {
          const header = { syncOnce: 1, noPersist };
          const messages = [
            command('alice', ['carol', 'bob'], noPersist),
            command('alice', ['carol'], noPersist),
            command('carol', ['bob'], noPersist),
            command('system', ['bob'], noPersist),
            draft('alice', 11, 'bob@alice', { header }),
            draft('alice', 11, 'alice@bob', { header }),
            draft('bob', 11, 'bob@alice', { header }),
          ];
          const answer = await client.send({ messages });
          assert.equal(said(answer), 'IN_DENYLIST ok ok ok IN_DENYLIST IN_DENYLIST ok', client.name);
          const refused = 'results' in answer ? answer.results[0]?.refused : undefined;
          assert.deepEqual([refused?.metadata.receivers, refused?.metadata.count], ['["bob"]', '1']);
          assert.equal(said(await client.send({ messages, validateOnly: true })).split(' ')[0], 'IN_DENYLIST');
        }
      }
    });

    test('ids of channel types 5 and 11 must be two names joined with @ in every request', async () => {
      for (const [index, client] of clients.entries())
        for (const type of [5, 11] as const)
          for (const id of ['plain', '@b', 'a@', 'a@b@c', `ok${index}@b`]) {
            const answer = await client.send({ messages: [draft('system', type, id)] });
            const isWhole = 'results' in answer;
            assert.equal(isWhole, id.startsWith('ok'), `${client.name} ${type} ${id}`);
            if (!isWhole) assert.deepEqual(answer.refused.fields, ['messages[0].channel_id']);
          }
      for (const [path, more] of [
        ['/channel', {}],
        ['/channel/delete', {}],
        ['/channel/subscriber_add', { subscribers: ['a'] }],
        ['/channel/blacklist_set', { uids: [] }],
        ['/channel/messagesync', { login_uid: 'a' }],
      ] as const) {
        const { status, body } = await call.post(path, { channel_id: 'plain', channel_type: 5, ...more });
        assert.equal(status, 400, path);
        assert.match(body.msg, /channel_id: must be two names joined with @ for channel_type 5/);
      }
    });

    test('ban and disband of a person channel are refused with a hint to send_ban', async () => {
      for (const flag of ['ban', 'disband']) {
        const { status, body } = await call.post('/channel', { channel_id: 'plain-user', channel_type: 1, [flag]: 1 });
        assert.deepEqual([status, body.error.details[1].fieldViolations[0].field], [400, flag]);
        assert.match(body.msg, /set send_ban/);
      }
      assert.equal((await call.get('/v1/channels/1/plain-user')).status, 404, 'and nothing was created');
    });

    test('removing entries from a channel that does not exist creates nothing', async () => {
      for (const [type, id] of [
        [2, 'ghost'],
        [1, 'nobody'],
        [11, 'ghost@bot'],
      ] as const) {
        const channel = { channel_id: id, channel_type: type };
        const changes: [string, object][] = [
          ['/channel/blacklist_remove', { uids: ['a'] }],
          ['/channel/blacklist_remove_all', {}],
          ['/channel/blacklist_set', { uids: [] }],
          ['/channel/whitelist_remove', { uids: ['a'] }],
          ['/channel/whitelist_remove_all', {}],
          ['/channel/whitelist_set', { uids: [] }],
        ];
        if (type !== 1)
          changes.push(['/channel/subscriber_remove', { subscribers: ['a'] }], ['/channel/subscriber_remove_all', {}]);
        for (const [path, more] of changes) await ok(path, { ...channel, ...more });
        assert.equal((await call.get(`/v1/channels/${type}/${id}`)).status, 404, id);
      }
      assert.equal(
        said((await clients[0]?.send({ messages: [draft('a', 2, 'ghost')] })) ?? { results: [] }),
        'CHANNEL_NOT_EXIST',
      );
      // A channel created by sending stays implicit, and its members can leave.
      await clients[0]?.send({ messages: [draft('here', 11, 'here@bot')] });
      await ok('/channel/subscriber_remove', { channel_id: 'here@bot', channel_type: 11, subscribers: ['here'] });
      const { body } = await call.get('/v1/channels/11/here@bot/members');
      assert.deepEqual(
        body.entries.map((each: { uid: string }) => each.uid),
        ['bot'],
      );
      assert.equal((await call.get('/v1/channels/11/here@bot')).status, 404);
    });

    test('a disbanded channel accepts no message and is readable only by services without a uid', async () => {
      await ok('/channel', { channel_id: 'over', channel_type: 2, subscribers: ['m'] });
      await clients[0]?.send({ messages: [draft('m', 2, 'over')] });
      await ok('/channel/delete', { channel_id: 'over', channel_type: 2 });
      for (const client of clients)
        assert.equal(
          said(
            await client.send({
              messages: [
                draft('m', 2, 'over'),
                draft('system', 2, 'over'),
                draft('m', 2, 'over', { header: { noPersist: 1 } }),
                draft('m', 2, 'over', { header: { syncOnce: 1 } }),
                draft('stranger', 2, 'over'),
              ],
            }),
          ),
          Array(5).fill('CHANNEL_DISBANDED').join(' '),
          client.name,
        );
      const read = async (uid: string) => await call.get(`/v1/channels/2/over/messages${uid && `?uid=${uid}`}`);
      assert.equal((await read('')).body.messages.length, 1);
      assert.equal((await read('m')).body.error.details[0].reason, 'CHANNEL_DISBANDED');
      assert.equal((await read('stranger')).body.error.details[0].reason, 'NOT_SUBSCRIBER');
      assert.equal((await read('system')).body.error.details[0].reason, 'CHANNEL_DISBANDED');
    });
  });
}

describe('PERSON_ALLOWLIST', () => {
  let service: TestService;
  let clients: ProtocolClient[];
  let call: ReturnType<typeof jsonCaller>;
  before(async () => {
    service = await startService({ systemUids, personAllowlist: true });
    clients = openClients(service.url);
    call = jsonCaller(service.url);
  });
  after(async () => {
    for (const client of clients) client.close();
    await service.stop();
  });

  test('PERSON_ALLOWLIST applies to person and agent channels and to commands, except to oneself', async () => {
    await call.post('/channel/whitelist_add', { channel_id: 'bob', channel_type: 1, uids: ['ann'] });
    await call.post('/channel', { channel_id: 'free', channel_type: 1, allow_stranger: 1 });
    await call.post('/user/systemuids_add', { uids: ['desk'] });
    for (const client of clients) {
      const of = async (from: string) =>
        said(
          await client.send({
            messages: [
              draft(from, 1, 'bob'),
              draft(from, 11, `bob@${from}`),
              command(from, ['bob']),
              command(from, ['bob', 'free', from, 'system', 'desk']),
              command(from, ['free', from, 'system', 'desk']),
              draft(from, 1, from),
              draft(from, 11, `${from}@${from}`),
            ],
          }),
        );
      const no = 'NOT_IN_ALLOWLIST';
      assert.equal(await of('ann'), 'ok ok ok ok ok ok ok', client.name);
      assert.equal(await of('eve'), `${no} ${no} ${no} ${no} ok ok ok`, client.name);
      assert.equal(await of('system'), 'ok ok ok ok ok ok ok', client.name);
    }
  });
});

describe('information in refusals', () => {
  const secret = new TextEncoder().encode('a secret of at least thirty-two bytes');
  let service: TestService;
  let clients: ProtocolClient[];
  let admin: ReturnType<typeof jsonCaller>;
  let headers: Record<'send' | 'reader' | 'user' | 'admin', Record<string, string>>;
  before(async () => {
    const scopes: Scope[] = ['send', 'read'];
    const tokens = {
      key: { secrets: { current: [secret] } },
      algorithms: ['HS256'],
      issuer: 'https://issuer.test',
      audience: 'sendbatch',
      scopes,
    };
    service = await startService({
      systemUids,
      requiresCredential: true,
      open: false,
      identity: { tokens, certificateScopes: undefined },
    });
    clients = openClients(service.url);
    const db = openStore(service.databaseUrl);
    const keys = createKeys(db);
    const bearer = async (scopes: Scope[]) => ({
      authorization: `Bearer ${(await keys.create({ name: scopes.join(), scopes })).key}`,
    });
    const user = await new SignJWT({ scope: 'send read' })
      .setProtectedHeader({ alg: 'HS256' })
      .setSubject('out')
      .setIssuer('https://issuer.test')
      .setAudience('sendbatch')
      .setExpirationTime('5m')
      .sign(secret);
    headers = {
      send: await bearer(['send']),
      reader: await bearer(['send', 'read']),
      admin: await bearer(['send', 'read', 'admin']),
      user: { authorization: `Bearer ${user}` },
    };
    admin = jsonCaller(service.url, headers.admin);
    await db.destroy();
    const put = async (channel_id: string, more: object) =>
      assert.equal((await admin.post('/channel', { channel_id, channel_type: 2, ...more })).status, 200);
    await put('plain', { subscribers: ['m'] });
    await put('banned', { ban: 1 });
    await put('gone', { disband: 1 });
    await put('denies', {});
    await admin.post('/channel/blacklist_add', { channel_id: 'denies', channel_type: 2, uids: ['out'] });
  });
  after(async () => {
    for (const client of clients) client.close();
    await service.stop();
  });

  test('an outsider gets the same refusal for an existing and a missing channel, on send and read', async () => {
    const ids = ['never', 'plain', 'banned', 'gone', 'denies'];
    for (const client of clients)
      for (const by of ['send', 'reader', 'user'] as const)
        for (const more of [{}, { validateOnly: true }, { mode: SendMode.ATOMIC }])
          for (const id of ids) {
            const answer = await client.send({ messages: [draft('out', 2, id)], ...more }, { headers: headers[by] });
            const refused = 'refused' in answer ? answer.refused : answer.results[0]?.refused;
            assert.deepEqual(
              [refused?.code, refused?.reason, refused?.message.includes('not a member')],
              ['PermissionDenied', 'NOT_SUBSCRIBER', true],
              `${client.name} ${by} ${id} ${JSON.stringify(more)}`,
            );
          }
    const statuses = async (path: (id: string) => string) =>
      await Promise.all(
        ids.map(async (id) => {
          const answer = await fetch(`${service.url}${path(id)}`, { headers: headers.user });
          return `${answer.status} ${(await answer.text()).replaceAll(id, '')}`;
        }),
      );
    for (const path of [(id: string) => `/v1/channels/2/${id}/messages`, (id: string) => `/v1/channels/2/${id}/events`])
      assert.equal(new Set(await statuses(path)).size, 1);
    const adminAnswer = await clients[0]?.send({ messages: [draft('out', 2, 'never')] }, { headers: headers.admin });
    assert.equal(said(adminAnswer ?? { results: [] }), 'CHANNEL_NOT_EXIST', 'an admin learns that it does not exist');
  });

  test('a key without the scope read learns no sequence and no id of earlier messages from a refusal', async () => {
    const earlier = draft('m', 2, 'plain', { clientMsgNo: 'known' });
    for (const client of clients) {
      await client.send({ messages: [earlier] }, { headers: headers.send });
      const request = {
        messages: [draft('m', 2, 'plain'), draft('m', 2, 'plain', { clientMsgNo: 'known', payload: Buffer.from('y') })],
        expectedLastSeqs: [{ channelType: ChannelType.GROUP, channelId: 'plain', lastSeq: 77n }],
      };
      const refusals = async (by: 'send' | 'reader', validateOnly: boolean) => {
        if (client.name.startsWith('JSON')) return [];
        const answer = await client.send({ ...request, validateOnly }, { headers: headers[by] });
        assert.equal(said(answer), 'SEQ_MISMATCH CLIENT_MSG_NO_REUSED', client.name);
        return 'results' in answer ? answer.results.map((each) => each.refused) : [];
      };
      for (const validateOnly of [true, false]) {
        for (const refused of await refusals('send', validateOnly)) {
          const { metadata = {}, message } = refused ?? {};
          assert.deepEqual(
            ['actual', 'message_id', 'message_seq'].filter((name) => name in metadata),
            [],
          );
          assert.doesNotMatch(message ?? '', /sequence is \d/);
        }
        const [mismatch, reused] = await refusals('reader', validateOnly);
        if (mismatch === undefined) continue;
        assert.ok(mismatch?.metadata.actual && reused?.metadata.message_id && reused.metadata.message_seq);
      }
    }
  });
});
