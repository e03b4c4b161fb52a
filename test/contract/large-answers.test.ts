import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Code, type ConnectError, createClient } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import pg from 'pg';
import { BatchService } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { ModerationService, RuleAction } from '../../gen/sendbatch/v1/moderation_service_pb.ts';
import { TemplateService } from '../../gen/sendbatch/v1/template_service_pb.ts';
import { jsonCaller } from '../support/json.ts';
import { startService, type TestService } from '../support/service.ts';
import { until } from '../support/watch.ts';

/** Default limit of gRPC clients for a received message, in bytes. */
const readMaxBytes = 4 * 1024 * 1024;
const count = 72;
const payload = new Uint8Array(65_536).fill(97);
const base64 = Buffer.from(payload).toString('base64');
const group = ChannelType.GROUP;

describe('pages of large entries fit the default limit of gRPC clients', () => {
  let service: TestService;
  const clients = () => {
    const transport = createGrpcTransport({ baseUrl: service.url, readMaxBytes });
    return {
      messages: createClient(MessageService, transport),
      templates: createClient(TemplateService, transport),
      moderation: createClient(ModerationService, transport),
      batches: createClient(BatchService, transport),
    };
  };
  let rpc: ReturnType<typeof clients>;
  before(async () => {
    service = await startService();
    rpc = clients();
  });
  after(() => service.stop());

  const send = async (of: (index: number) => object) => {
    for (let start = 0; start < count; start += 24) {
      const drafts = Array.from({ length: 24 }, (_, index) => ({
        fromUid: 's',
        channelId: 'large',
        channelType: group,
        payload,
        ...of(start + index),
      }));
      const { refusedCount } = await rpc.messages.sendBatch({ messages: drafts });
      assert.equal(refusedCount, 0);
    }
  };
  /** Reads all entries, page by page, and asserts more than one page. */
  const all = async <P, T>(
    fetchPage: (token: string) => Promise<P>,
    entries: (page: P) => [T[], string | undefined],
  ) => {
    const found: T[] = [];
    let pages = 0;
    for (let token: string | undefined = ''; token !== undefined; pages++) {
      const [page, next] = entries(await fetchPage(token));
      assert.ok(page.length > 0, 'a page holds at least one entry');
      assert.ok(pages < count, `page ${pages} after ${token}`);
      found.push(...page);
      token = next === '' ? undefined : next;
    }
    assert.ok(pages > 1, `${pages} pages`);
    return found;
  };
  const distinct = (values: unknown[]) => new Set(values.map(String)).size;

  test('ListMessages, SyncMessages and GetMessages split large entries into pages that fit gRPC clients', async () => {
    await jsonCaller(service.url).post('/channel', { channel_id: 'large', channel_type: 2, subscribers: ['s', 'r'] });
    // A message with many receivers is large even without a payload.
    const subscribers = Array.from({ length: 9000 }, (_, index) => `r${index}`.padEnd(100, 'x'));
    await send((index) => (index === 0 ? { subscribers: [...subscribers, 'r'] } : {}));
    const at = { channelId: 'large', channelType: group };
    const listed = await all(
      (token) => rpc.messages.listMessages({ ...at, limit: 1000, afterSeq: BigInt(token || 0) }),
      (page) => [page.messages, page.more ? String(page.nextSeq) : ''],
    );
    assert.deepEqual(
      listed.map((message) => Number(message.messageSeq)),
      Array.from({ length: count }, (_, index) => index + 1),
    );
    const synced = await all(
      (token) =>
        rpc.messages.syncMessages({
          ...at,
          loginUid: 'r',
          limit: 1000,
          pullMode: 1,
          startMessageSeq: BigInt(token || 1),
        }),
      ({ messages, more }) => [messages, more === 1 ? String(Number(messages.at(-1)?.messageSeq) + 1) : ''],
    );
    assert.equal(distinct(synced.map((message) => message.messageSeq)), count);
    const seqs = listed.map((message) => message.messageSeq);
    const got = await all(
      (token) => rpc.messages.getMessages({ ...at, messageSeqs: seqs.filter((seq) => seq > BigInt(token || 0)) }),
      ({ messages, more }) => [messages, more === 1 ? String(messages.at(-1)?.messageSeq) : ''],
    );
    assert.equal(distinct(got.map((message) => message.messageSeq)), count);
  });

  test('SyncCommands splits large commands into pages that fit gRPC clients', async () => {
    await send(() => ({ channelId: 'r', channelType: ChannelType.PERSON, header: { syncOnce: 1 } }));
    const commands = await all(
      (token) => rpc.messages.syncCommands({ uid: 'r', limit: 1000, messageSeq: BigInt(token || 0) }),
      ({ messages, more }) => [messages, more ? String(messages.at(-1)?.messageSeq) : ''],
    );
    assert.deepEqual(
      commands.map((command) => Number(command.messageSeq)),
      Array.from({ length: count }, (_, index) => index + 1),
    );
  });

  test('ListConversations splits large conversations into pages that fit gRPC clients', async () => {
    await send((index) => ({ channelId: `peer${index}`, channelType: ChannelType.PERSON }));
    const found = await all(
      (pageToken) => rpc.messages.listConversations({ uid: 's', pageSize: 1000, pageToken }),
      (page) => [page.conversations, page.nextPageToken],
    );
    assert.equal(distinct(found.map((each) => each.channelId).filter((id) => id.startsWith('peer'))), count);
  });

  test('SyncConversations refuses an answer that gRPC clients refuse, and names its pages', async () => {
    await send((index) => ({ channelId: `other${index}`, channelType: ChannelType.PERSON }));
    const sync = { uid: 's', msgCount: 1 };
    await assert.rejects(rpc.messages.syncConversations(sync), (error: ConnectError) => {
      assert.equal(error.code, Code.InvalidArgument);
      assert.match(error.message, /page_size: .*3145728 bytes; request pages/);
      return true;
    });
    const pages = await Promise.all(
      [1, 2].map((page) => rpc.messages.syncConversations({ ...sync, page, pageSize: 40 })),
    );
    const ids = pages.flatMap(({ conversations }) => conversations.map((each) => each.channelId));
    assert.equal(distinct(ids), ids.length);
    assert.equal(ids.filter((id) => id.startsWith('other')).length, count);
  });

  test('ListTemplates splits large templates into pages that fit gRPC clients', async () => {
    const body = 'x'.repeat(65_536);
    for (let index = 0; index < count; index++) await rpc.templates.createTemplate({ name: `t${index}`, body });
    const found = await all(
      (pageToken) => rpc.templates.listTemplates({ pageSize: 1000, pageToken }),
      (page) => [page.templates, page.nextPageToken],
    );
    assert.equal(distinct(found.map((each) => each.name)), count);
  });

  test('ListRules and ListFlagged split large entries into pages that fit gRPC clients', async () => {
    const keywords = ['flagme'];
    await rpc.moderation.createRule({ rule: { action: RuleAction.FLAG, keywords } });
    const large = Array.from({ length: 20_000 }, (_, index) => `${index}`.padEnd(128, '字'));
    const refused = await jsonCaller(service.url).post('/v1/moderation/rules', { action: 1, keywords: large });
    assert.deepEqual([refused.status, refused.body.error.details[0].metadata.limit], [400, '3145728']);
    await send((index) => ({
      channelId: `flagged${index % 3}`,
      payload: Buffer.from(`flagme ${base64.slice(0, 65_000)}`),
    }));
    const flagged = await all(
      (pageToken) => rpc.moderation.listFlagged({ pageSize: 1000, pageToken }),
      (page) => [page.flagged, page.nextPageToken],
    );
    assert.equal(distinct(flagged.map((each) => each.messageId)), count);
    // Inserted directly, so that the service does not compile these rules, which takes long.
    const client = new pg.Client({ connectionString: service.databaseUrl });
    await client.connect();
    await client.query(
      `insert into sendbatch.moderation_rule (action, keywords, patterns, channel_types, tag_keys, note)
       select 'refuse', array_fill(repeat('y', 100), array[9000]), '{}', '{}', '{}', '' from generate_series(1, 5)`,
    );
    await client.end();
    const found = await all(
      (pageToken) => rpc.moderation.listRules({ pageToken }),
      (page) => [page.rules, page.nextPageToken],
    );
    assert.equal(distinct(found.map((each) => each.ruleId)), 6);
  });

  test('ListBatchResults splits large refusals into pages that fit gRPC clients', async () => {
    const messages = [{ fromUid: 's', channelId: 'large', channelType: group, payload }];
    const batchId = (await rpc.batches.submitBatch({ messages })).batch?.batchId ?? '';
    await until(
      'the batch has ended',
      async () => (await rpc.batches.getBatch({ batchId })).batch?.endedAt !== undefined,
    );
    const refused = Array.from({ length: 1000 }, (_, index) => ({
      index,
      clientMsgNo: `k${index}`,
      messageId: 0,
      messageSeq: 0,
      duplicate: false,
      refusal: { reason: 'NOT_SUBSCRIBER', message: 'x'.repeat(3000), metadata: { from_uid: 'y'.repeat(2000) } },
    }));
    const client = new pg.Client({ connectionString: service.databaseUrl });
    await client.connect();
    await client.query('update sendbatch.batch_chunk set results = $2 where batch_id = $1', [
      batchId,
      JSON.stringify(refused),
    ]);
    await client.end();
    const found = await all(
      (pageToken) => rpc.batches.listBatchResults({ batchId, pageSize: 1000, pageToken }),
      (page) => [page.results, page.nextPageToken],
    );
    assert.deepEqual(
      found.map((each) => each.index),
      refused.map((each) => each.index),
    );
  });

  test('page tokens that no answer contains are refused, not read as another position', async () => {
    const call = jsonCaller(service.url);
    const rows = [
      '/v1/users/s/conversations?page_token=007-1',
      '/v1/users/s/conversations?page_token=9999999999999999-1',
      '/v1/users/s/conversations?page_token=1',
      '/v1/moderation/flagged?page_token=9999999999999999',
      '/v1/moderation/flagged?page_token=01',
      '/v1/moderation/rules?page_token=01',
      '/v1/templates?page_token=a%20b',
      '/v1/batches?page_token=01-00000000-0000-0000-0000-000000000000',
    ];
    for (const path of rows) {
      const { status, body } = await call.get(path);
      assert.deepEqual([status, body.error?.status], [400, 'INVALID_ARGUMENT'], path);
      assert.match(body.msg, /page_token/, path);
    }
  });
});
