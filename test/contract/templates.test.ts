import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { SendMode } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { TemplateFormat } from '../../gen/sendbatch/v1/template_service_pb.ts';
import { jsonCaller } from '../support/json.ts';
import { type Answer, openClients, type ProtocolClient, said } from '../support/protocols.ts';
import { startService, type TestService } from '../support/service.ts';
import { readAll } from '../support/verify.ts';

describe('templates', () => {
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
    await service.stop();
  });
  const payloadsOf = async (channel: string) =>
    (await readAll(service.databaseUrl)).filter((row) => row.channel === channel).map((row) => row.payload);
  const draft = (
    channelId: string,
    clientMsgNo: string,
    name: string,
    variables: Record<string, string>,
    version = 0,
  ) => ({
    channelId,
    channelType: ChannelType.GROUP,
    fromUid: 'u1',
    clientMsgNo,
    template: { name, version, variables },
  });

  test('a stored template is rendered over every protocol, and only messages that fail to render are refused', async () => {
    const { body } = await call.post('/v1/templates', {
      name: 'welcome',
      body: '{"text":"Hi {{ user }}, {{ day }}"}',
      format: 2,
    });
    assert.deepEqual([body.version, body.variables], [1, ['day', 'user']]);
    for (const [index, client] of clients.entries()) {
      const channel = `stored-${index}`;
      const messages = [
        draft(channel, '1', 'welcome', { user: 'Ann', day: 'Monday' }),
        draft(channel, '2', 'welcome', { user: 'Bob' }),
        draft(channel, '3', 'nowhere', {}),
        draft(channel, '4', 'welcome', { user: 'Cy', day: 'x'.repeat(65_536) }),
      ];
      const answer = await client.send({ messages });
      assert.equal(said(answer), 'ok TEMPLATE_FAILED TEMPLATE_NOT_FOUND PAYLOAD_TOO_LARGE', client.name);
      const missing = 'results' in answer ? answer.results[1]?.refused?.metadata.missing : undefined;
      assert.equal(missing, 'day');
      assert.deepEqual(await payloadsOf(channel), ['{"text":"Hi Ann, Monday"}']);
      assert.equal(said(await client.send({ messages: messages.slice(0, 1) })), 'again');
      assert.match(
        said(await client.send({ messages: [draft(channel, '5', 'nowhere', {})], mode: SendMode.ATOMIC })),
        /TEMPLATE_NOT_FOUND/,
      );
    }
  });

  test('a template of the request is rendered over every RPC protocol', async () => {
    for (const [index, client] of clients.entries()) {
      if (client.name.startsWith('JSON')) continue;
      const channel = `own-${index}`;
      const templates = [{ name: 'own', body: 'Hello {{ user }}', format: TemplateFormat.TEXT }];
      const messages = ['Ann', 'Bob'].map((user) => draft(channel, user, 'own', { user }));
      assert.equal(said(await client.send({ messages, templates })), 'ok ok', client.name);
      assert.deepEqual(await payloadsOf(channel), ['Hello Ann', 'Hello Bob']);
      const bad = await client.send({ messages, templates: [{ name: 'own', body: '{{ user' }] });
      assert.ok('refused' in bad);
      assert.deepEqual([bad.refused.reason, bad.refused.fields], ['INVALID_FIELD', ['templates[0].body']]);
    }
  });

  test('a slow template does not delay other calls and is stopped after 5 s', async () => {
    const body = '{% for i in (1..990) %}{% for j in (1..1000) %}{% if j %}{% endif %}{% endfor %}{% endfor %}x';
    const [long, other] = [clients[0], clients[1]];
    assert.ok(long && other);
    let isDone = false;
    const answer = long
      .send({
        templates: [{ name: 'long', body, format: TemplateFormat.TEXT }],
        messages: Array.from({ length: 1000 }, (_, index) => draft('long', String(index), 'long', {})),
      })
      .finally(() => {
        isDone = true;
      });
    let between = 0;
    while (!isDone) {
      const sent: Answer = await other.send({
        messages: [draft('beside', String(between), 'welcome', { user: 'A', day: 'B' })],
      });
      assert.equal(said(sent), 'ok');
      between++;
    }
    const result = await answer;
    assert.ok('results' in result);
    assert.match(result.results[0]?.refused?.message ?? '', /render limit exceeded|took longer than/);
    assert.match(result.results[999]?.refused?.message ?? '', /longer than 5000 ms/);
    assert.ok(between > 5, String(between));
  });

  test('templates have versions, pages and previews, and can be deleted', async () => {
    const create = async (body: string) => (await call.post('/v1/templates', { name: 'versions', body })).body.version;
    assert.deepEqual([await create('one'), await create('two')], [1, 2]);
    assert.deepEqual(await Promise.all([create('three'), create('three')]).then((both) => both.sort()), [3, 4]);
    assert.equal((await call.get('/v1/templates/versions')).body.body, 'three');
    assert.equal((await call.get('/v1/templates/versions?version=1')).body.body, 'one');
    assert.equal((await call.get('/v1/templates/versions?version=9')).status, 404);
    const { body: latest } = await call.get('/v1/templates/versions/versions?page_size=3');
    const numbers = ({ versions }: { versions: { version: number }[] }) => versions.map((each) => each.version);
    assert.deepEqual(numbers(latest), [4, 3, 2]);
    const { body: rest } = await call.get(`/v1/templates/versions/versions?page_token=${latest.next_page_token}`);
    assert.deepEqual([numbers(rest), rest.versions[0].body, rest.next_page_token], [[1], 'one', '']);
    assert.equal((await call.get('/v1/templates/nowhere/versions')).status, 404);
    assert.deepEqual((await call.get('/v1/templates/versions/versions?page_token=1')).body.versions, []);
    const [client] = clients;
    assert.ok(client);
    assert.equal(said(await client.send({ messages: [draft('pinned', '1', 'versions', {}, 1)] })), 'ok');
    assert.deepEqual(await payloadsOf('pinned'), ['one']);
    const { body: page } = await call.get('/v1/templates?page_size=1&page_token=a');
    assert.deepEqual([page.templates.length, page.next_page_token], [1, 'versions']);
    const preview = await call.post('/v1/templates:preview', { body: 'Hi {{ a }}', variables: { a: 'b' } });
    assert.equal(Buffer.from(preview.body.payload, 'base64').toString(), 'Hi b');
    assert.equal(
      (await call.post('/v1/templates:preview', { body: 'Hi {{ a }}' })).body.error.details[0].reason,
      'TEMPLATE_FAILED',
    );
    assert.equal((await call.post('/v1/templates', { name: 'a b', body: 'x' })).status, 400);
    assert.equal((await call.post('/v1/templates', { name: 'x', body: '{% nothing %}' })).status, 400);
    const gone = await fetch(`${service.url}/v1/templates/versions`, { method: 'DELETE' });
    assert.equal(gone.status, 200);
    assert.equal(said(await client.send({ messages: [draft('pinned', '2', 'versions', {})] })), 'TEMPLATE_NOT_FOUND');
  });

  test('a message needs exactly one of payload and template', async () => {
    for (const more of [{ payload: 'eA==', template: { name: 'x' } }, {}]) {
      const { status, body } = await call.post('/message/sendbatch', [
        { from_uid: 'u1', channel_id: 'a', channel_type: 2, ...more },
      ]);
      assert.equal(status, 400);
      assert.match(body.error.details[1].fieldViolations[0].field, /^messages\[0\]\.(payload|template)$/);
    }
  });
});
