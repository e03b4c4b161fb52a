import assert from 'node:assert/strict';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, describe, test } from 'node:test';
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { MessageDraftSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import { SendMode } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { jsonCaller } from '../support/json.ts';
import { type Answer, openClients, type ProtocolClient, said } from '../support/protocols.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, readAll } from '../support/verify.ts';
import { until } from '../support/watch.ts';

type Draft = MessageInitShape<typeof MessageDraftSchema>;
const draft = (channelId: string, clientMsgNo: string, text: string, more: Draft = {}): Draft => ({
  channelId,
  channelType: 2,
  fromUid: 'u1',
  clientMsgNo,
  payload: Buffer.from(text),
  ...more,
});
describe('moderation rules', () => {
  let service: TestService;
  let clients: ProtocolClient[];
  let call: ReturnType<typeof jsonCaller>;
  before(async () => {
    service = await startService();
    clients = openClients(service.url);
    call = jsonCaller(service.url);
  });
  after(async () => {
    for (const client of clients) client.close();
    await assertSound(service.databaseUrl);
    await service.stop();
  });
  const payloadsOf = async (channel: string) =>
    (await readAll(service.databaseUrl)).filter((row) => row.channel === channel).map((row) => row.payload);

  test('moderation rules refuse, mask and flag messages over every protocol, and flagged ones can be reviewed', async () => {
    const rules = [
      { action: 'RULE_ACTION_REFUSE', keywords: ['forbidden'] },
      { action: 'RULE_ACTION_MASK', keywords: ['secret'], patterns: ['\\b\\d{4}\\b'] },
      { action: 3, keywords: ['odd'] },
    ];
    const created = [];
    for (const rule of rules) created.push((await call.post('/v1/moderation/rules', rule)).body);
    assert.deepEqual(
      created.map((each) => each.action),
      [1, 2, 3],
    );
    for (const [index, client] of clients.entries()) {
      const channel = `content-${index}`;
      const messages = [
        draft(channel, '1', 'fine'),
        draft(channel, '2', 'Forbidden'),
        draft(channel, '3', '{"content":"my secret 1234","n":1234}'),
        draft(channel, '4', 'odd and secret'),
      ];
      assert.equal(said(await client.send({ messages, validateOnly: true })), 'ok CONTENT_REFUSED ok ok', client.name);
      assert.match(said(await client.send({ messages, mode: SendMode.ATOMIC })), /CONTENT_REFUSED/);
      assert.deepEqual(await payloadsOf(channel), []);
      const answer = await client.send({ messages });
      assert.equal(said(answer), 'ok CONTENT_REFUSED ok ok');
      const refused = 'results' in answer ? answer.results[1]?.refused : undefined;
      assert.deepEqual(
        [refused?.code, refused?.metadata],
        ['PermissionDenied', { rule_id: String(created[0].rule_id) }],
      );
      assert.deepEqual(await payloadsOf(channel), ['fine', '{"content":"my ****** ****","n":1234}', 'odd and ******']);
      assert.equal(
        said(await client.send({ messages })),
        'again CONTENT_REFUSED again again',
        'a retry returns the stored messages',
      );
    }
    const { body } = await call.get('/v1/moderation/flagged?page_size=4');
    assert.equal(body.flagged.length, 4);
    const next = await call.get(`/v1/moderation/flagged?page_token=${body.next_page_token}`);
    assert.equal(next.body.flagged.length, clients.length - 4);
    const [first] = body.flagged;
    assert.deepEqual(
      [
        first.channel_id,
        first.channel_type,
        first.from_uid,
        first.rule_ids,
        Buffer.from(first.payload, 'base64').toString(),
      ],
      ['content-0', 2, 'u1', [created[2].rule_id], 'odd and ******'],
    );
    const ids = [...body.flagged, ...next.body.flagged].map((each) => each.message_id);
    assert.equal((await call.post('/v1/moderation/flagged:review', { message_ids: ids })).status, 200);
    assert.deepEqual((await call.get('/v1/moderation/flagged')).body.flagged, []);
    for (const { rule_id: id } of created)
      assert.equal((await fetch(`${service.url}/v1/moderation/rules/${id}`, { method: 'DELETE' })).status, 200);
    const [client] = clients;
    assert.equal(said((await client?.send({ messages: [draft('free', '1', 'forbidden')] })) as Answer), 'ok');
  });

  test('a text can be tested against the rules, which name every match and store nothing', async () => {
    const test = async (text: string, more: object = {}) => {
      const payload = Buffer.from(text).toString('base64');
      const { body } = await call.post('/v1/moderation/rules:test', { channel_type: 2, payload, ...more });
      const { payload: after, ...rules } = body;
      return { ...rules, text: Buffer.from(after, 'base64').toString() };
    };
    assert.deepEqual(await test('none'), { refused_by: [], masked_by: [], flagged_by: [], text: 'none' });
    const ids: number[] = [];
    for (const rule of [
      { action: 1, keywords: ['first'] },
      { action: 1, patterns: ['fir.t'], tag_keys: ['vip'] },
      { action: 2, keywords: ['code'], patterns: ['\\d+'] },
      { action: 2, keywords: ['code'], channel_types: [6] },
      { action: 3, keywords: ['odd'] },
    ])
      ids.push((await call.post('/v1/moderation/rules', rule)).body.rule_id);
    const [word, tagged, masked, inInfo, odd] = ids;
    assert.deepEqual(await test('FIRST odd code 12'), {
      refused_by: [word],
      masked_by: [masked],
      flagged_by: [odd],
      text: 'FIRST odd **** **',
    });
    assert.deepEqual((await test('first', { tag_key: 'vip' })).refused_by, [word, tagged]);
    assert.deepEqual((await test('code', { channel_type: 6 })).masked_by, [masked, inInfo]);
    assert.deepEqual(await test('{"code":"my code"}'), {
      refused_by: [],
      masked_by: [masked],
      flagged_by: [],
      text: '{"code":"my ****"}',
    });
    assert.deepEqual((await call.get('/v1/moderation/flagged')).body.flagged, []);
    for (const id of ids) await fetch(`${service.url}/v1/moderation/rules/${id}`, { method: 'DELETE' });
    const { status } = await call.post('/v1/moderation/rules:test', { channel_type: 0, payload: 'SGk=' });
    assert.equal(status, 400);
  });

  test('a changed moderation rule applies on another instance without a restart', async () => {
    const second = await startService({ databaseUrl: service.databaseUrl });
    const [client] = openClients(second.url);
    assert.ok(client);
    const { body: rule } = await call.post('/v1/moderation/rules', {
      action: 1,
      keywords: ['thousands', ...Array.from({ length: 5000 }, (_, index) => `word${index}`)],
    });
    let sent = 0;
    const untilOutcome = (expected: string) =>
      until(expected, async () => {
        const messages = [draft('other', `o${sent++}`, 'of thousands word4999')];
        return said(await client.send({ messages })) === expected;
      });
    await untilOutcome('CONTENT_REFUSED');
    const update = await fetch(`${service.url}/v1/moderation/rules/${rule.rule_id}`, {
      method: 'PUT',
      body: JSON.stringify({ action: 2, keywords: ['thousands'] }),
    });
    assert.deepEqual(((await update.json()) as { keywords: string[] }).keywords, ['thousands']);
    await untilOutcome('ok');
    await fetch(`${service.url}/v1/moderation/rules/${rule.rule_id}`, { method: 'DELETE' });
    await second.stop();
  });

  test('an invalid moderation rule is refused with the field named', async () => {
    const rows: [object, string][] = [
      [{ keywords: ['a'] }, 'rule.action'],
      [{ action: 1 }, 'rule.keywords'],
      [{ action: 1, patterns: ['('] }, 'rule.patterns[0]'],
      [{ action: 1, keywords: [''] }, 'rule.keywords[0]'],
      [{ action: 1, keywords: ['a\0'] }, 'rule.keywords[0]'],
      [{ action: 1, keywords: ['a'], channel_types: [0] }, 'rule.channel_types[0]'],
    ];
    for (const [rule, field] of rows) {
      const { status, body } = await call.post('/v1/moderation/rules', rule);
      assert.deepEqual(
        [status, body.error.details[1]?.fieldViolations?.[0]?.field],
        [400, field],
        JSON.stringify(body),
      );
    }
    const { body: long } = await call.post('/v1/moderation/rules', { action: 1, keywords: ['敏'.repeat(129)] });
    assert.match(long.msg, /rule\.keywords\[0\]: must be at most 128 characters, not 129/);
    const missing = await fetch(`${service.url}/v1/moderation/rules/999999`, { method: 'DELETE' });
    assert.equal(missing.status, 404);
  });
});

describe('the moderation hook', () => {
  let hook: Server;
  let answer: (messages: { payload: string }[]) => { status?: number; results?: unknown; hang?: boolean };
  let calls = 0;
  let url: string;
  before(async () => {
    hook = createServer(async (request, response) => {
      calls++;
      const chunks: Buffer[] = [];
      for await (const chunk of request) chunks.push(chunk as Buffer);
      const { messages } = JSON.parse(Buffer.concat(chunks).toString());
      const { status = 200, results, hang = false } = answer(messages);
      if (hang) return;
      response.writeHead(status);
      response.end(JSON.stringify({ results }));
    });
    await new Promise<void>((resolve) => hook.listen(0, '127.0.0.1', resolve));
    url = `http://127.0.0.1:${(hook.address() as AddressInfo).port}/moderate`;
  });
  after(() => {
    hook.closeAllConnections();
    hook.close();
  });

  for (const onFailure of ['open', 'closed'] as const) {
    test(`the moderation hook is called once per batch, its verdicts apply, and it fails ${onFailure} behind a circuit breaker`, async () => {
      const service = await startService({ moderationHook: { url, timeoutMs: 30_000, onFailure } });
      const [client] = openClients(service.url);
      assert.ok(client);
      const text = (each: { payload: string }) => Buffer.from(each.payload, 'base64').toString();
      answer = (messages) => ({
        results: messages.map((each) =>
          text(each) === 'mask'
            ? { action: 'mask', payload: btoa('****') }
            : { action: text(each) === 'no' ? 'refuse' : text(each) === 'flag' ? 'flag' : 'allow' },
        ),
      });
      calls = 0;
      const messages = ['yes', 'no', 'mask', 'flag'].map((each) => draft('hooked', each, each));
      assert.equal(said(await client.send({ messages })), 'ok CONTENT_REFUSED ok ok');
      assert.equal(calls, 1);
      assert.deepEqual(
        (await readAll(service.databaseUrl)).map((row) => row.payload),
        ['yes', '****', 'flag'],
      );
      const { body } = await jsonCaller(service.url).get('/v1/moderation/flagged');
      assert.deepEqual(
        body.flagged.map((each: { rule_ids: number[] }) => each.rule_ids),
        [[0]],
      );

      const hurried = await startService({
        databaseUrl: service.databaseUrl,
        moderationHook: { url, timeoutMs: 2000, onFailure },
      });
      const [hurriedDoor] = openClients(hurried.url);
      const expected = onFailure === 'open' ? 'ok' : 'STORE_BUSY';
      let sent = 0;
      const send = async () =>
        said((await hurriedDoor?.send({ messages: [draft('hooked', `f${sent++}`, 'x')] })) as Answer);
      calls = 0;
      const failures: (typeof answer)[] = [
        () => ({ status: 500 }),
        () => ({ results: [] }),
        () => ({ results: [{ action: 'what' }] }),
        () => ({ results: 'x' }),
        () => ({ hang: true }),
      ];
      for (const failure of failures) {
        answer = failure;
        assert.equal(await send(), expected);
      }
      assert.equal(calls, failures.length);
      assert.equal(await send(), expected);
      assert.equal(calls, failures.length, 'the breaker is open: the hook is left alone');
      await hurried.stop();
      await service.stop();
    });
  }
});
