import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { createClient } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { Webhook } from 'standardwebhooks';
import { BatchService } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { WebhookDeliveryState, WebhookService } from '../../gen/sendbatch/v1/webhook_service_pb.ts';
import { createDatabase } from '../support/database.ts';
import { type JsonAnswer, jsonCaller } from '../support/json.ts';
import { changesOf, messagesOf, ok, type Received, type Receiver, startReceiver, status } from '../support/receiver.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, query } from '../support/verify.ts';
import { patienceMs } from '../support/watch.ts';

const maxAttempts = 4;
/** Shortened schedule: retries after 20 ms, 80 ms and 320 ms. */
const retrySchedule = { firstMs: 20, maxAttempts, breakMs: 20, maxBreakMs: 50 };

const draft = (channel: string, text: string, more: object = {}) => ({
  from_uid: 'u1',
  channel_id: channel,
  channel_type: 2,
  payload: Buffer.from(text).toString('base64'),
  ...more,
});
const textOf = ({ payload }: { payload: string }) => Buffer.from(payload, 'base64').toString();

describe('webhooks', () => {
  let service: TestService;
  let receiver: Receiver;
  let call: ReturnType<typeof jsonCaller>;
  before(async () => {
    service = await startService({
      webhooks: { settings: undefined, allowPrivate: true, timeoutMs: 60_000, retrySchedule },
    });
    call = jsonCaller(service.url);
    receiver = await startReceiver();
  });
  after(async () => {
    await assertSound(service.databaseUrl);
    await service.stop();
    await receiver.close();
  });
  afterEach(async () => {
    for (const { name } of (await call.get('/v1/webhooks')).body.webhooks) await remove(name);
    receiver.received.length = 0;
    receiver.answer = ok;
  });

  const request = async (method: string, path: string, body?: unknown): Promise<JsonAnswer> => {
    const response = await fetch(service.url + path, {
      method,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    return { status: response.status, body: await response.json() };
  };
  const remove = (name: string) => request('DELETE', `/v1/webhooks/${name}`);
  const create = async (name: string, more: object = {}): Promise<string> => {
    const { status, body } = await call.post('/v1/webhooks', { name, url: `${receiver.url}/${name}`, ...more });
    assert.equal(status, 200, JSON.stringify(body));
    return body.secret;
  };
  const send = async (...messages: object[]) => {
    const { status, body } = await call.post('/message/sendbatch', messages);
    assert.ok(status === 200 || status === 207, JSON.stringify(body));
    return body;
  };
  const at = (path: string) => receiver.received.filter((each) => each.path.split('?')[0] === path);
  const textsAt = (path: string) => at(path).flatMap((each) => messagesOf(each).map(textOf));
  const textsOf = (channel: string) =>
    receiver.received
      .flatMap((each) => messagesOf(each).filter((message) => message.channel_id === channel))
      .map(textOf);
  const verify = (secret: string, { text, headers }: Received) =>
    new Webhook(secret).verify(text, headers as Record<string, string>);
  const deliveries = async (name: string, query = '') =>
    (await call.get(`/v1/webhooks/${name}/deliveries${query}`)).body;
  const get = async (name: string) => (await call.get(`/v1/webhooks/${name}`)).body;
  const untilAsync = async (what: string, holds: () => Promise<boolean>) => {
    for (const end = performance.now() + patienceMs; performance.now() < end; ) if (await holds()) return;
    assert.fail(what);
  };

  test('a webhook receives stored messages as in the history, with a signature', async () => {
    const secret = await create('standard');
    const [sent] = await send(
      draft('std', 'one', { client_msg_no: 'k1', header: { red_dot: 1 }, tag_key: 'tag', expire: 600 }),
    );
    await receiver.until('the message', () => textsOf('std').length === 1);
    const [received] = receiver.received;
    assert.ok(received);
    const { body, headers, path } = received;
    assert.deepEqual([path, headers['content-type']], ['/standard', 'application/json']);
    assert.match(String(headers['user-agent']), /^sendbatch\//);
    assert.match(String(headers['webhook-id']), /^msg_[0-9a-f]{32}$/);
    assert.deepEqual(Object.keys(body), ['type', 'timestamp', 'data']);
    assert.equal(body.type, 'message.stored');
    const history = await call.get('/v1/channels/2/std/messages');
    assert.deepEqual(body.data, { messages: history.body.messages });
    assert.equal(body.data.messages[0].message_id, sent.message_id);
    verify(secret, received);
    assert.throws(() => verify(secret, { ...received, text: `${received.text} ` }), /No matching signature/);
    assert.throws(() => verify(`whsec_${Buffer.alloc(32).toString('base64')}`, received), /No matching signature/);
  });

  test('a webhook receives exactly the newly stored messages: no duplicates, refusals, commands or no_persist', async () => {
    await create('exact');
    const command = draft('ex', 'command', { header: { sync_once: 1 }, subscribers: ['u2'] });
    const live = draft('ex', 'live', { header: { no_persist: 1 } });
    await send(draft('ex', '1', { client_msg_no: 'a' }), draft('ex', '2', { client_msg_no: 'b' }));
    await send(command);
    await send(live);
    // The pessimistic path: a duplicate, a conflict, a new message and a command.
    await send(
      draft('ex', '1', { client_msg_no: 'a' }),
      draft('ex', 'other', { client_msg_no: 'b' }),
      draft('ex', '3', { client_msg_no: 'c' }),
      command,
    );
    const client = createClient(MessageService, createGrpcTransport({ baseUrl: service.url }));
    const { results } = await client.sendBatch({
      messages: ['4', '5'].map((text) => ({
        fromUid: 'u1',
        channelId: 'ex',
        channelType: ChannelType.GROUP,
        payload: Buffer.from(text),
      })),
      expectedLastSeqs: [{ channelId: 'ex', channelType: ChannelType.GROUP, lastSeq: 3n }],
    });
    assert.deepEqual(
      results.map((each) => each.messageSeq),
      [4n, 5n],
    );
    await send(draft('ex', 'last'));
    await receiver.until('the last message', () => textsOf('ex').includes('last'));
    assert.deepEqual(textsOf('ex'), ['1', '2', '3', '4', '5', 'last']);
  });

  test('a webhook receives edits and recalls in the order of the channel, each once, and again after a failure', async () => {
    await create('order', { disabled: true });
    await create('legacy', { format: 'legacy' });
    const client = createClient(MessageService, createGrpcTransport({ baseUrl: service.url }));
    const channel = { channelType: ChannelType.GROUP, channelId: 'order' };
    const edit = (seq: bigint, text: string) =>
      client.editMessage({ ...channel, messageSeq: seq, payload: Buffer.from(text) });
    await send(...['1', '2', '3'].map((text) => draft('order', text)));
    await client.recallMessages({ ...channel, messageSeqs: [2n] });
    await send(draft('order', '4'), draft('order', '5'));
    await edit(4n, '4b');
    await edit(4n, '4c');
    await client.recallMessages({ ...channel, messageSeqs: [1n, 3n] });
    await send(draft('order', '6'));
    let failures = 0;
    receiver.answer = (response, received) =>
      received.path === '/order' && received.body.type !== 'message.stored' && failures++ < 2
        ? status(500)(response, received)
        : ok(response, received);
    const enabled = await request('PUT', '/v1/webhooks/order', { url: `${receiver.url}/order` });
    assert.equal(enabled.status, 200, JSON.stringify(enabled.body));
    await receiver.until('the last message', () => textsAt('/order').includes('6'));
    const seen = at('/order').map((each) => ({
      type: each.body.type,
      seqs: messagesOf(each).map((message) => message.message_seq),
      changes: changesOf(each).map(({ change_no, message }) => [change_no, message.message_seq, textOf(message)]),
      id: each.headers['webhook-id'],
    }));
    assert.deepEqual(
      seen
        .filter(({ id }, index) => id !== seen[index + 1]?.id)
        .map(({ type, seqs, changes }) => [type, seqs, changes]),
      [
        ['message.stored', [1, 2, 3], []],
        ['message.recalled', [], [[1, 2, '']]],
        ['message.stored', [4, 5], []],
        [
          'message.edited',
          [],
          [
            [2, 4, '4c'],
            [3, 4, '4c'],
          ],
        ],
        [
          'message.recalled',
          [],
          [
            [4, 1, ''],
            [5, 3, ''],
          ],
        ],
        ['message.stored', [6], []],
      ],
    );
    assert.equal(seen.length, 8);
    const recalled = at('/order').find((each) => each.body.type === 'message.recalled') as Received;
    const history = await call.get('/v1/channels/2/order/messages');
    assert.deepEqual(recalled.body.data, {
      changes: [{ change_no: 1, kind: 2, message: history.body.messages[1] }],
    });
    // Receivers of the legacy format know no changes.
    await receiver.until('the last message', () => textsAt('/legacy').includes('6'));
    assert.ok(at('/legacy').every((each) => Array.isArray(each.body)));
    assert.equal((await get('order')).queued_messages, 0);
  });

  test('the recall of a batch to many channels is posted in few requests, and parked changes are redelivered', async () => {
    await create('many', { channel_types: [1] });
    const client = createClient(BatchService, createGrpcTransport({ baseUrl: service.url }));
    const messages = Array.from({ length: 400 }, (_, index) => ({
      fromUid: 'ops',
      channelId: `person${index}`,
      channelType: ChannelType.PERSON,
      payload: Buffer.from(`m${index}`),
    }));
    const { batch } = await client.submitBatch({ messages });
    const batchId = batch?.batchId ?? '';
    await receiver.until('all messages', () => textsAt('/many').length === 400);
    receiver.answer = status(500);
    await client.recallBatch({ batchId });
    const parked = async () =>
      (await deliveries('many')).deliveries.filter((each: { state: number }) => each.state === 2).length;
    await untilAsync('parked changes', async () => (await parked()) >= 8);
    const [first] = (await deliveries('many')).deliveries;
    assert.equal(first.change_kind, 2);
    assert.equal(first.ranges[0].first_seq, 1);
    receiver.answer = ok;
    await request('POST', '/v1/webhooks/many/deliveries:redeliver', {});
    const recalled = () =>
      new Set(at('/many').flatMap((each) => changesOf(each).map(({ message }) => message.channel_id)));
    await untilAsync('all changes', async () => (await get('many')).queued_messages === 0 && (await parked()) === 0);
    await receiver.until('all recalls', () => recalled().size === 400);
  });

  test('a webhook of the legacy format posts msg.notify arrays and retries every answer except 200', async () => {
    const secret = await create('legacy', { format: 2, url: `${receiver.url}/legacy?token=x%20y` });
    let first = true;
    receiver.answer = (response) => {
      response.writeHead(first ? 202 : 200).end();
      first = false;
    };
    await send(
      draft('bob', 'hello', { from_uid: 'alice', channel_type: 1, client_msg_no: 'k', header: { red_dot: 1 } }),
    );
    await receiver.until('the second attempt', () => receiver.received.length === 2);
    const [one, two] = receiver.received as [Received, Received];
    assert.equal(one.path, '/legacy?token=x%20y&event=msg.notify');
    assert.equal(one.text, two.text);
    verify(secret, two);
    const [message] = one.body;
    assert.equal(one.body.length, 1);
    assert.deepEqual(message, {
      header: { no_persist: 0, red_dot: 1, sync_once: 0 },
      setting: 0,
      message_id: message.message_id,
      message_idstr: String(message.message_id),
      client_msg_no: 'k',
      message_seq: 1,
      from_uid: 'alice',
      channel_id: 'bob',
      channel_type: 1,
      expire: 0,
      timestamp: message.timestamp,
      payload: Buffer.from('hello').toString('base64'),
      stream_no: '',
    });
    assert.ok(Math.abs(message.timestamp * 1000 - Date.now()) < 60_000);
  });

  test('a webhook posts messages in order, within the limits of count, time and size', async () => {
    await create('sized', { batch_size: 7 });
    await create('waiting', { max_wait_ms: 60_000, batch_size: 12 });
    await send(...Array.from({ length: 30 }, (_, index) => draft('sized', `${index}`)));
    await receiver.until('all of them', () => textsAt('/sized').length === 30);
    assert.deepEqual(
      textsAt('/sized'),
      Array.from({ length: 30 }, (_, index) => `${index}`),
    );
    assert.deepEqual(
      at('/sized').map((each) => messagesOf(each).length),
      [7, 7, 7, 7, 2],
    );
    // Full batches are posted at once; the remainder waits.
    await receiver.until('two full ones', () => at('/waiting').length === 2);
    assert.deepEqual(
      at('/waiting').map((each) => messagesOf(each).length),
      [12, 12],
    );
    assert.equal((await get('waiting')).queued_messages, 6);
    await create('large');
    await send(...Array.from({ length: 20 }, (_, index) => draft('large', `${index} ${'x'.repeat(60_000)}`)));
    await receiver.until('the large ones', () => textsAt('/large').length === 20);
    assert.deepEqual(
      textsAt('/large').map((text) => Number.parseInt(text, 10)),
      Array.from({ length: 20 }, (_, index) => index),
    );
    for (const { text } of at('/large')) assert.ok(text.length < 1024 * 1024, `${text.length} bytes`);
  });

  test('a webhook receives only messages of its channel types', async () => {
    await create('groups', { channel_types: [2, 4] });
    await send(
      draft('someone', 'person', { channel_type: 1 }),
      draft('typed', 'group'),
      draft('typed', 'community', { channel_type: 4 }),
    );
    await receiver.until('both', () => textsAt('/groups').length === 2);
    assert.deepEqual(textsAt('/groups').sort(), ['community', 'group']);
  });

  test('after a rotation both webhook secrets sign for a day, then only the new one', async () => {
    const old = await create('rotated');
    const { body } = await call.post('/v1/webhooks/rotated:rotateSecret', {});
    assert.match(body.secret, /^whsec_/);
    assert.ok(Math.abs(Date.parse(body.previous_secret_until) - Date.now() - 24 * 3600_000) < 60_000);
    await send(draft('rot', 'both'));
    await receiver.until('the message', () => receiver.received.length === 1);
    for (const secret of [old, body.secret]) verify(secret, receiver.received[0] as Received);
    await query(service.databaseUrl, 'update sendbatch.webhook set previous_until = previous_until - 86400000');
    assert.equal((await get('rotated')).previous_secret_until, undefined);
    await send(draft('rot', 'new'));
    await receiver.until('the next', () => receiver.received.length === 2);
    verify(body.secret, receiver.received[1] as Received);
    assert.throws(() => verify(old, receiver.received[1] as Received), /No matching signature/);
    const given = `whsec_${Buffer.alloc(24, 7).toString('base64')}`;
    const twice = [1, 2].map(() => call.post('/v1/webhooks/rotated:rotateSecret', { secret: given }));
    const answers = await Promise.all(twice);
    assert.deepEqual(answers[1]?.body, { ...answers[0]?.body, secret: given });
    // A repeated rotation keeps the previous secret of the receiver.
    await send(draft('rot', 'again'));
    await receiver.until('the third', () => receiver.received.length === 3);
    for (const secret of [body.secret, given]) verify(secret, receiver.received[2] as Received);
    assert.equal(
      (await call.post('/v1/webhooks/rotated:rotateSecret', { secret: `whsec_${'A'.repeat(33)}` })).status,
      400,
    );
  });

  test('a failed delivery is retried under its id, parked after the last attempt, passed by later ones and redelivered', async () => {
    const secret = await create('failing');
    receiver.answer = (response, received) =>
      (messagesOf(received).some((message) => textOf(message) === 'poison') ? status(500) : ok)(response, received);
    await send(draft('bad', 'poison'));
    await receiver.until('the attempts', () => receiver.received.length >= 1);
    await untilAsync('it is listed while it is retried', async () => {
      const [one] = (await deliveries('failing')).deliveries;
      return one !== undefined && one.last_status === 500;
    });
    await send(draft('bad', 'next'));
    await receiver.until('the next message', () => textsOf('bad').includes('next'));
    assert.deepEqual(textsOf('bad'), [...Array(maxAttempts).fill('poison'), 'next']);
    const attempts = receiver.received.slice(0, maxAttempts);
    assert.equal(new Set(attempts.map((each) => each.headers['webhook-id'])).size, 1);
    assert.notEqual(receiver.received[maxAttempts]?.headers['webhook-id'], attempts[0]?.headers['webhook-id']);
    for (const each of attempts) verify(secret, each);
    const waits = attempts.slice(1).map((each, index) => each.at - (attempts[index] as Received).at);
    for (const [index, wait] of waits.entries()) assert.ok(wait >= 15 * 4 ** index, `${waits}`);

    const { deliveries: parked } = await deliveries('failing');
    assert.equal(parked.length, 1);
    const [one] = parked;
    assert.deepEqual([one.state, one.attempts, one.last_status], [WebhookDeliveryState.PARKED, maxAttempts, 500]);
    assert.deepEqual(one.ranges, [{ channel_type: 2, channel_id: 'bad', first_seq: 1, last_seq: 1 }]);
    assert.equal(one.webhook_id, attempts[0]?.headers['webhook-id']);
    assert.match(one.last_error, /answered 500/);
    assert.equal((await get('failing')).parked_deliveries, 1);

    // Parked again after as many attempts, then redelivered under its own id.
    const redeliver = (body: object) => call.post('/v1/webhooks/failing/deliveries:redeliver', body);
    assert.deepEqual((await redeliver({ delivery_ids: [one.delivery_id + 1] })).body, { queued: 0 });
    assert.deepEqual((await redeliver({ delivery_ids: [one.delivery_id] })).body, { queued: 1 });
    await receiver.until('the second round', () => receiver.received.length === 2 * maxAttempts + 1);
    await untilAsync(
      'it is parked again',
      async () => (await deliveries('failing')).deliveries[0]?.state === WebhookDeliveryState.PARKED,
    );
    receiver.answer = ok;
    assert.deepEqual((await redeliver({})).body, { queued: 1 });
    await receiver.until('the redelivery', () => receiver.received.length === 2 * maxAttempts + 2);
    assert.equal(receiver.received.at(-1)?.headers['webhook-id'], one.webhook_id);
    await untilAsync('nothing is parked', async () => (await deliveries('failing')).deliveries.length === 0);
    // The receiver gets the message before the service records the answer.
    await untilAsync('its failure count is reset', async () => (await get('failing')).failures === 0);
  });

  test('parked webhook deliveries are listed in pages', async () => {
    await create('pages');
    receiver.answer = status(500);
    for (const channel of ['p1', 'p2', 'p3']) await send(draft(channel, 'x'));
    await untilAsync('all are parked', async () => (await get('pages')).parked_deliveries === 3);
    const first = await deliveries('pages', '?page_size=2');
    const second = await deliveries('pages', `?page_size=2&page_token=${first.next_page_token}`);
    assert.deepEqual([first.deliveries.length, second.deliveries.length, second.next_page_token], [2, 1, '']);
    const ids = [...first.deliveries, ...second.deliveries].map((each) => each.delivery_id);
    assert.deepEqual(
      ids,
      [...new Set(ids)].sort((a, b) => a - b),
    );
  });

  test('a webhook retry waits for the Retry-After of the receiver', async () => {
    await create('busy');
    receiver.answer = status(429, { 'retry-after': '1' });
    await send(draft('busy', 'x'));
    await receiver.until('the first attempt', () => receiver.received.length === 1);
    receiver.answer = ok;
    await receiver.until('the second', () => receiver.received.length === 2);
    const [one, two] = receiver.received as [Received, Received];
    assert.ok(two.at - one.at >= 950, `${two.at - one.at} ms`);
  });

  test('410 disables a webhook, and unexpired messages stored meanwhile are delivered once it is enabled', async () => {
    await create('gone');
    receiver.answer = status(410);
    await send(draft('gone', 'first'));
    await untilAsync('it is disabled', async () => (await get('gone')).disabled);
    assert.equal((await get('gone')).disabled_reason, 2);
    await send(draft('gone', 'expires', { expire: 1 }), draft('gone', 'second'));
    await untilAsync('it is queued', async () => (await get('gone')).queued_messages === 2);
    await untilAsync(
      'it has expired',
      async () => (await call.get('/v1/channels/2/gone/messages')).body.messages.length === 2,
    );
    receiver.answer = ok;
    receiver.received.length = 0;
    const enabled = await request('PUT', '/v1/webhooks/gone', { url: `${receiver.url}/again` });
    assert.deepEqual([enabled.status, enabled.body.disabled, enabled.body.failures], [200, false, 0]);
    await receiver.until('the waiting messages', () => textsOf('gone').includes('second'));
    assert.deepEqual(textsOf('gone'), ['first', 'second']);
    assert.ok(receiver.received.every((each) => each.path === '/again'));
    // Disabled by the operator: nothing is posted until it is enabled.
    await request('PUT', '/v1/webhooks/gone', { url: `${receiver.url}/again`, disabled: true });
    await send(draft('gone', 'third'));
    await untilAsync('it is queued', async () => (await get('gone')).queued_messages === 1);
    assert.deepEqual(textsOf('gone'), ['first', 'second']);
    assert.equal((await get('gone')).disabled_reason, 1);
  });

  test('a webhook delivery neither follows redirects nor waits for the end of an answer body', async () => {
    await create('elsewhere');
    let trap = 0;
    receiver.answer = (response, { path }) => {
      if (path === '/trap') trap++;
      if (receiver.received.length === 1)
        status(302, { location: '/trap' })(response, receiver.received[0] as Received);
      else response.writeHead(200).write('no end');
    };
    await send(draft('else', '1'));
    await receiver.until('two attempts', () => receiver.received.length === 2);
    await send(draft('else', '2'));
    await receiver.until('the next', () => receiver.received.length === 3);
    assert.deepEqual([textsOf('else'), trap], [['1', '1', '2'], 0]);
  });

  test('a webhook that is down is probed by one lane at a time', async () => {
    await create('down');
    let open = 0;
    let most = 0;
    let seen = 0;
    receiver.answer = (response) => {
      // The first attempts of the eight lanes are in flight before the first failure.
      if (++seen > 12) most = Math.max(most, ++open);
      setTimeout(() => {
        if (seen > 12) open--;
        response.writeHead(503).end();
      }, 10);
    };
    await send(...Array.from({ length: 16 }, (_, index) => draft(`down${index}`, `${index}`)));
    await receiver.until('many attempts', () => receiver.received.length >= 18);
    assert.ok((await get('down')).failures >= 5);
    assert.ok(most <= 2, `${most} at once`);
    receiver.answer = ok;
  });

  test('a test of a webhook posts webhook.test and queues nothing', async () => {
    const secret = await create('tested');
    const tested = (name: string) => call.post(`/v1/webhooks/${name}:test`, {});
    const { body } = await tested('tested');
    assert.deepEqual([body.delivered, body.status, body.error], [true, 200, '']);
    const [received] = receiver.received as [Received];
    assert.deepEqual([received.body.type, received.body.data], ['webhook.test', {}]);
    verify(secret, received);
    receiver.answer = status(404);
    assert.deepEqual((await tested('tested')).body.error, 'the receiver answered 404');
    await create('nobody', { url: 'http://127.0.0.1:1/', format: 2 });
    const refused = (await tested('nobody')).body;
    assert.deepEqual([refused.delivered, refused.status, refused.error], [false, 0, 'no answer: ECONNREFUSED']);
    assert.deepEqual((await deliveries('tested')).deliveries, []);
    assert.equal((await get('nobody')).failures, 0);
  });

  test('webhooks are created and deleted over gRPC, and invalid requests are refused', async () => {
    const client = createClient(WebhookService, createGrpcTransport({ baseUrl: service.url }));
    const { webhook, secret } = await client.createWebhook({
      name: 'grpc',
      url: receiver.url,
      channelTypes: [ChannelType.GROUP],
    });
    assert.deepEqual([webhook?.batchSize, webhook?.maxWaitMs, webhook?.channelTypes], [100, 0, [ChannelType.GROUP]]);
    assert.ok(secret.startsWith('whsec_'));
    assert.ok(!JSON.stringify(await call.get('/v1/webhooks/grpc')).includes(secret));
    const refusals: [() => Promise<unknown>, RegExp][] = [
      [
        () => client.createWebhook({ name: 'grpc', url: receiver.url }),
        /already_exists.*webhook "grpc" already exists/,
      ],
      [() => client.createWebhook({ name: 'settings', url: receiver.url }), /invalid_argument.*WEBHOOK_URL/],
      [() => client.updateWebhook({ name: 'settings', url: receiver.url }), /invalid_argument.*WEBHOOK_URL/],
      [() => client.rotateWebhookSecret({ name: 'settings' }), /invalid_argument.*WEBHOOK_URL/],
      [() => client.createWebhook({ name: 'a b', url: receiver.url }), /invalid_argument.*name/],
      [() => client.createWebhook({ name: 'x', url: '' }), /invalid_argument.*url/],
      [() => client.createWebhook({ name: 'x', url: 'nonsense' }), /invalid_argument.*url: must be a URL/],
      [() => client.createWebhook({ name: 'x', url: 'ftp://x' }), /invalid_argument.*url: must be an https URL/],
      [() => client.createWebhook({ name: 'x', url: receiver.url, secret: 'whsec_short' }), /invalid_argument.*secret/],
      [() => client.createWebhook({ name: 'x', url: receiver.url, batchSize: 101 }), /invalid_argument.*batch_size/],
      [
        () => client.createWebhook({ name: 'x', url: receiver.url, maxWaitMs: 60_001 }),
        /invalid_argument.*max_wait_ms/,
      ],
      [
        () => client.createWebhook({ name: 'x', url: receiver.url, channelTypes: [2, 2] }),
        /invalid_argument.*channel_types/,
      ],
      [() => client.getWebhook({ name: 'x' }), /not_found.*webhook \\?"x\\?" does not exist/],
      [() => client.updateWebhook({ name: 'x', url: receiver.url }), /not_found/],
      [() => client.deleteWebhook({ name: 'x' }), /not_found/],
      [() => client.testWebhook({ name: 'x' }), /not_found/],
      [() => client.rotateWebhookSecret({ name: 'x' }), /not_found/],
      [() => client.listWebhookDeliveries({ name: 'x' }), /not_found/],
      [() => client.redeliverWebhook({ name: 'x' }), /not_found/],
    ];
    for (const [refused, words] of refusals) await assert.rejects(refused, words);
    await client.deleteWebhook({ name: 'grpc' });
    assert.deepEqual((await client.listWebhooks({})).webhooks, []);
  });
});

test('a hanging receiver delays neither another webhook nor other lanes', async () => {
  const receiver = await startReceiver();
  const service = await startService({
    webhooks: { settings: undefined, allowPrivate: true, timeoutMs: 4000, retrySchedule },
  });
  try {
    const { get, post } = jsonCaller(service.url);
    for (const name of ['hangs', 'well'])
      assert.equal((await post('/v1/webhooks', { name, url: `${receiver.url}/${name}` })).status, 200);
    let hung = 0;
    receiver.answer = (response, received) => {
      if (received.path === '/hangs' && messagesOf(received).some((each) => each.channel_id === 'stuck')) hung++;
      else ok(response, received);
    };
    const textsAt = (path: string) =>
      receiver.received.filter((each) => each.path === path).flatMap((each) => messagesOf(each).map(textOf));
    assert.equal((await post('/message/sendbatch', [draft('stuck', '0')])).status, 200);
    await receiver.until('it hangs', () => hung === 1);
    // Channels created in turn are spread over the eight lanes.
    const channels = Array.from({ length: 8 }, (_, index) => `lane${index}`);
    const drafts = channels.map((channel) => draft(channel, channel));
    assert.equal((await post('/message/sendbatch', drafts)).status, 200);
    await receiver.until(
      'seven lanes and the other webhook',
      () => textsAt('/well').length === 9 && textsAt('/hangs').length >= 8,
    );
    assert.equal(hung, 1, 'the one that hangs still does');
    await receiver.until('it is retried', () => hung === 2);
    const { deliveries } = (await get('/v1/webhooks/hangs/deliveries')).body;
    assert.match(deliveries[0]?.last_error, /no answer within 4000 ms/);
  } finally {
    await service.stop();
    await receiver.close();
  }
});

describe('webhooks with default settings', () => {
  test('a webhook with a private address or plain http is refused', async () => {
    const service = await startService();
    try {
      const call = jsonCaller(service.url);
      for (const url of [
        'http://example.com/',
        'https://localhost/',
        'https://127.0.0.1:8443/',
        'https://[::ffff:10.0.0.1]/',
        'https://169.254.169.254/latest/meta-data',
      ]) {
        const { status, body } = await call.post('/v1/webhooks', { name: 'x', url });
        assert.deepEqual(
          [status, body.error.details[0].reason, body.error.details[1].fieldViolations[0].field],
          [400, 'INVALID_FIELD', 'url'],
        );
        assert.match(body.msg, /WEBHOOK_ALLOW_PRIVATE=on/);
      }
    } finally {
      await service.stop();
    }
  });

  test('a service has at most 100 webhooks', async () => {
    const service = await startService();
    try {
      const call = jsonCaller(service.url);
      const createWebhook = (index: number) =>
        call.post('/v1/webhooks', { name: `w${index}`, url: 'https://example.com/', disabled: true });
      for (let index = 0; index < 100; index++) assert.equal((await createWebhook(index)).status, 200);
      const { status, body } = await createWebhook(100);
      assert.deepEqual([status, body.error.details[0].metadata.limit], [400, '100']);
      assert.equal((await call.get('/v1/webhooks')).body.webhooks.length, 100);
    } finally {
      await service.stop();
    }
  });

  test('a stop waits for a running webhook POST and abandons a hanging one, which is retried under its id', async () => {
    const database = await createDatabase();
    const receiver = await startReceiver();
    const webhooks = { settings: undefined, allowPrivate: true, timeoutMs: 60_000 };
    const start = (shutdownGraceMs = 60_000) => startService({ databaseUrl: database.url, webhooks, shutdownGraceMs });
    const send = async (service: TestService, text: string) => {
      assert.equal((await jsonCaller(service.url).post('/message/sendbatch', [draft('stop', text)])).status, 200);
    };
    try {
      const first = await start();
      const made = await jsonCaller(first.url).post('/v1/webhooks', { name: 'stop', url: receiver.url });
      assert.equal(made.status, 200);
      const { promise: begun, resolve: begin } = Promise.withResolvers<() => void>();
      receiver.answer = (response, received) => begin(() => ok(response, received));
      await send(first, 'slow');
      const answer = await begun;
      const stopped = first.stop();
      answer();
      await stopped;

      const second = await start(1000);
      receiver.answer = () => {};
      await send(second, 'hangs');
      await receiver.until('the next, and not the first again', () => receiver.received.length === 2);
      await second.stop();

      receiver.answer = ok;
      const third = await start();
      await receiver.until('the retry', () => receiver.received.length === 3);
      await third.stop();
      assert.deepEqual(
        receiver.received.map((each) => messagesOf(each).map(textOf)),
        [['slow'], ['hangs'], ['hangs']],
      );
      const [, hung, again] = receiver.received.map((each) => each.headers['webhook-id']);
      assert.equal(hung, again);
    } finally {
      await receiver.close();
      await database.drop();
    }
  });

  test('deliveries parked two weeks ago or queued for a deleted webhook are swept', async () => {
    const receiver = await startReceiver();
    receiver.answer = status(500);
    const webhooks = { settings: undefined, allowPrivate: true, timeoutMs: 60_000, retrySchedule: { maxAttempts: 1 } };
    const service = await startService({ webhooks, sweepIntervalMs: 50 });
    try {
      const call = jsonCaller(service.url);
      await call.post('/v1/webhooks', { name: 'kept', url: receiver.url });
      await call.post('/message/sendbatch', [draft('swept', 'x')]);
      const parked = async () => (await call.get('/v1/webhooks/kept')).body.parked_deliveries;
      const until = async (count: number) => {
        for (const end = performance.now() + patienceMs; (await parked()) !== count; )
          assert.ok(performance.now() < end, `not ${count}`);
      };
      await until(1);
      await query(
        service.databaseUrl,
        `insert into sendbatch.webhook_queue (webhook_key, channel_key, lane, first_seq, last_seq, since) values (999, 1, 0, 1, 1, 0);
        update sendbatch.webhook_parked set parked_at = parked_at - 14 * 86400000::bigint`,
      );
      await until(0);
      for (const end = performance.now() + patienceMs; ; ) {
        const rows = await query(service.databaseUrl, 'select from sendbatch.webhook_queue where webhook_key = 999');
        if (rows.length === 0) break;
        assert.ok(performance.now() < end, 'it stays');
      }
    } finally {
      await service.stop();
      await receiver.close();
    }
  });

  test('the webhook of the settings is created, changed with both secrets valid, and disabled when removed', async () => {
    const receiver = await startReceiver();
    const secrets = [1, 2].map((byte) => `whsec_${Buffer.alloc(32, byte).toString('base64')}`) as [string, string];
    const settings = { url: receiver.url, secret: secrets[0], format: 'legacy' as const };
    const first = await startService({ webhooks: { settings, allowPrivate: true, timeoutMs: 60_000 } });
    const again = (change: object | undefined) =>
      startService({
        databaseUrl: first.databaseUrl,
        webhooks: { settings: change && { ...settings, ...change }, allowPrivate: true, timeoutMs: 60_000 },
      });
    try {
      const call = jsonCaller(first.url);
      assert.equal((await call.post('/message/sendbatch', [draft('set', '1')])).status, 200);
      await receiver.until('the message', () => receiver.received.length === 1);
      new Webhook(secrets[0]).verify(
        receiver.received[0]?.text ?? '',
        receiver.received[0]?.headers as Record<string, string>,
      );
      const second = await again({ secret: secrets[1], format: 'standard' });
      await jsonCaller(second.url).post('/message/sendbatch', [draft('set', '2')]);
      await receiver.until('the second', () => receiver.received.length === 2);
      for (const secret of secrets)
        new Webhook(secret).verify(
          receiver.received[1]?.text ?? '',
          receiver.received[1]?.headers as Record<string, string>,
        );
      assert.equal(receiver.received[1]?.body.type, 'message.stored');
      await second.stop();
      const third = await again(undefined);
      const { body } = await call.get('/v1/webhooks/settings');
      assert.deepEqual([body.disabled, body.disabled_reason], [true, 3]);
      await third.stop();
    } finally {
      await first.stop();
      await receiver.close();
    }
  });
});
