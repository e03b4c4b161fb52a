import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { MessageDraftSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import { SendMode } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { createKeys } from '../../src/auth/api-keys.ts';
import type { Config } from '../../src/config/index.ts';
import { openStore } from '../support/database.ts';
import { jsonCaller } from '../support/json.ts';
import { type Answer, openClients, type ProtocolClient, said } from '../support/protocols.ts';
import { startService, type TestService } from '../support/service.ts';

type Draft = MessageInitShape<typeof MessageDraftSchema>;

let sent = 0;
const draft = (fromUid: string, more: Draft = {}): Draft => ({
  channelId: `c-${fromUid}`,
  channelType: 2,
  fromUid,
  clientMsgNo: `k${sent++}`,
  payload: Buffer.from('x'),
  ...more,
});
const drafts = (fromUid: string, count: number, more: Draft = {}) =>
  Array.from({ length: count }, () => draft(fromUid, more));
const hour = 3600;
const limited = 'RATE_LIMITED';

for (const store of ['memory', 'postgres'] as const) {
  describe(`rate limits in ${store}`, () => {
    const rates: Config['rates'] = {
      caller: [],
      sender: [{ points: 5, seconds: hour }],
      channel: [{ points: 8, seconds: hour }],
      store,
    };
    let service: TestService;
    let clients: ProtocolClient[];
    before(async () => {
      service = await startService({ rates });
      clients = openClients(service.url);
    });
    after(async () => {
      for (const client of clients) client.close();
      await service.stop();
    });

    test('rate limits count messages, and each message above the quota is refused with a retry delay', async () => {
      for (const [index, client] of clients.entries()) {
        const uid = `weigh-${index}`;
        assert.equal(said(await client.send({ messages: drafts(uid, 3) })), 'ok ok ok', client.name);
        const answer = await client.send({ messages: [...drafts(uid, 4), draft(`other-${index}`)] });
        assert.equal(said(answer), `ok ok ${limited} ${limited} ok`);
        const refused = 'results' in answer ? answer.results[2]?.refused : undefined;
        assert.deepEqual(refused?.metadata, { by: 'sender', limit: '5', seconds: '3600' });
        assert.ok((refused?.retryMs ?? 0) > 3_500_000 && (refused?.retryMs ?? 0) <= 3_600_000);
      }
    });

    test('rate limits of senders and channels do not count duplicates, refusals and validate_only', async () => {
      for (const [index, client] of clients.entries()) {
        const uid = `free-${index}`;
        const [first = {}, ...more] = drafts(uid, 3);
        assert.equal(said(await client.send({ messages: [first, ...more] })), 'ok ok ok', client.name);
        for (let again = 0; again < 3; again++)
          assert.equal(said(await client.send({ messages: [first, ...more].slice(0, 2) })), 'again again');
        for (let again = 0; again < 2; again++)
          assert.equal(
            said(await client.send({ messages: drafts(uid, 4), validateOnly: true })),
            `ok ok ${limited} ${limited}`,
            'what a send at this moment would answer',
          );
        const changed = { ...first, payload: Buffer.from('y') };
        assert.equal(
          said(await client.send({ messages: [changed, changed] })),
          'CLIENT_MSG_NO_REUSED CLIENT_MSG_NO_REUSED',
        );
        const atomic = await client.send({ messages: drafts(uid, 3), mode: SendMode.ATOMIC });
        assert.match(said(atomic), new RegExp(limited));
        assert.equal(said(await client.send({ messages: drafts(uid, 2) })), 'ok ok', 'the ATOMIC one took nothing');
      }
    });

    test('a retry of stored messages is answered as duplicates even when the quota is used up', async () => {
      const created = await jsonCaller(service.url).post('/v1/templates', { name: 't', body: 'hello {{ name }}' });
      assert.equal(created.status, 200);
      for (const [index, client] of clients.entries()) {
        const uid = `retry-${index}`;
        const first = drafts(uid, 3);
        const of = (name: string) =>
          draft(uid, {
            clientMsgNo: 'rendered',
            payload: new Uint8Array(),
            template: { name: 't', variables: { name } },
          });
        const rendered = of('ann');
        assert.equal(said(await client.send({ messages: [...first, rendered] })), 'ok ok ok ok', client.name);
        assert.equal(said(await client.send({ messages: drafts(uid, 1) })), 'ok', 'the last of the quota');
        const request = { messages: [...first, rendered, draft(uid)] };
        for (const validateOnly of [true, false])
          assert.equal(said(await client.send({ ...request, validateOnly })), `again again again again ${limited}`);
        const changed = draft(uid, { clientMsgNo: first[0]?.clientMsgNo ?? '', payload: Buffer.from('other') });
        assert.equal(
          said(await client.send({ messages: [changed, of('bob'), rendered] })),
          'CLIENT_MSG_NO_REUSED CLIENT_MSG_NO_REUSED again',
        );
        assert.equal(said(await client.send({ messages: first, mode: SendMode.ATOMIC })), 'again again again');
        const mixed = await client.send({ messages: [...first, draft(uid)], mode: SendMode.ATOMIC });
        assert.match(said(mixed), new RegExp(limited));
        // The same with keys derived from request_id and index.
        const byId = { messages: drafts(`${uid}b`, 2, { clientMsgNo: '' }), requestId: `r-${store}-${index}` };
        assert.equal(said(await client.send(byId)), 'ok ok');
        assert.equal(said(await client.send({ messages: drafts(`${uid}b`, 3) })), 'ok ok ok');
        assert.equal(said(await client.send(byId)), 'again again');
      }
    });

    test('a rate limit of a channel counts the messages of all senders', async () => {
      const [client] = clients;
      assert.ok(client);
      const messages = ['a', 'b', 'c'].flatMap((uid) => drafts(`ch-${uid}`, 3, { channelId: 'narrow' }));
      assert.equal(said(await client.send({ messages })), `${'ok '.repeat(8)}${limited}`);
    });

    test('an array with every message above the rate limit is 429 with Retry-After', async () => {
      const body = drafts('wire', 6).map((each) => ({
        from_uid: each.fromUid,
        channel_id: each.channelId,
        channel_type: 2,
        client_msg_no: each.clientMsgNo,
        payload: 'eA==',
      }));
      const post = (messages: unknown) =>
        fetch(`${service.url}/message/sendbatch`, { method: 'POST', body: JSON.stringify(messages) });
      assert.equal((await post(body.slice(0, 5))).status, 200);
      const answer = await post(body.slice(5));
      assert.equal(answer.status, 429);
      assert.ok(Number(answer.headers.get('retry-after')) > 3500);
      const { status, body: error } = await jsonCaller(service.url).post('/message/send', body[5]);
      assert.deepEqual([status, error.error.details[0].reason], [429, limited]);
    });
  });
}

for (const store of ['memory', 'postgres'] as const)
  test(`refused and validated messages cost the caller a tenth, counted in ${store}`, async () => {
    const service = await startService({
      rates: { caller: [{ points: 20, seconds: hour }], sender: [{ points: 1, seconds: hour }], channel: [], store },
    });
    const [client] = openClients(service.url);
    assert.ok(client);
    const remaining = async () => {
      const answer = await fetch(`${service.url}/message/sendbatch?validate_only=true`, {
        method: 'POST',
        body: '[{"from_uid":"look","channel_id":"c","channel_type":2,"payload":"eA=="}]',
      });
      return /r=(\d+)/.exec(answer.headers.get('ratelimit') ?? '')?.[1];
    };
    const uids = (from: number, count: number) => Array.from({ length: count }, (_, at) => draft(`u${from + at}`));
    assert.equal(await remaining(), '19');
    await client.send({ messages: uids(0, 19), validateOnly: true });
    assert.equal(await remaining(), '17', '20 validated messages cost 2');
    assert.equal(said(await client.send({ messages: drafts('one', 11) })), `ok${` ${limited}`.repeat(10)}`);
    assert.equal(await remaining(), '15', '1 stored, and 10 that the sender’s rate refused');
    await service.stop();
  });

test('rate limits in postgres are shared by all instances', async () => {
  const rates: Config['rates'] = { caller: [], sender: [{ points: 5, seconds: hour }], channel: [], store: 'postgres' };
  const first = await startService({ rates });
  const second = await startService({ rates, databaseUrl: first.databaseUrl });
  const [one] = openClients(first.url);
  const [two] = openClients(second.url);
  assert.ok(one && two);
  assert.equal(said(await one.send({ messages: drafts('u', 3) })), 'ok ok ok');
  assert.equal(said(await two.send({ messages: drafts('u', 3) })), `ok ok ${limited}`);
  await second.stop();
  await first.stop();
});

test('two keys with the same name have separate quotas', async () => {
  const service = await startService({
    requiresCredential: true,
    open: false,
    rates: { caller: [{ points: 2, seconds: hour }], sender: [], channel: [], store: 'memory' },
  });
  const db = openStore(service.databaseUrl);
  const keys = createKeys(db);
  const [client] = openClients(service.url);
  for (const more of [{}, {}, { ratePerSecond: 1 }]) {
    const { key } = await keys.create({ name: 'twin', scopes: ['send'], ...more });
    const answer = await client?.send({ messages: drafts('u', 3) }, { headers: { authorization: `Bearer ${key}` } });
    assert.equal(
      said(answer as Answer),
      'ratePerSecond' in more ? 'ok ok ok' : `ok ok ${limited}`,
      'a key’s own rate is over a minute',
    );
  }
  await db.destroy();
  await service.stop();
});

test('the RateLimit headers contain the quota of the caller', async () => {
  const service = await startService({
    rates: {
      caller: [
        { points: 4, seconds: 1 },
        { points: 100, seconds: hour },
      ],
      sender: [],
      channel: [],
      store: 'memory',
    },
  });
  const answer = await fetch(`${service.url}/message/send`, {
    method: 'POST',
    body: '{"from_uid":"u1","channel_id":"c","channel_type":2,"payload":"eA=="}',
  });
  assert.deepEqual(
    [answer.status, answer.headers.get('ratelimit-policy'), answer.headers.get('ratelimit')],
    [200, '"caller";q=4;w=1', '"caller";r=3;t=1'],
  );
  await service.stop();
});
