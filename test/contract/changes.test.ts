import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Code, ConnectError, createClient, type Transport } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from '@connectrpc/connect-node';
import { ErrorInfoSchema } from '../../gen/google/rpc/error_details_pb.ts';
import { BatchService } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { ChannelType, MessageState } from '../../gen/sendbatch/v1/message_pb.ts';
import { ChangeKind, MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { createKeys, type Keys } from '../../src/auth/api-keys.ts';
import { sweepCopies } from '../../src/changes/copies.sql.ts';
import { verify } from '../../src/integrity/verify.ts';
import type { Scope } from '../../src/messages/caller.ts';
import { overShards } from '../../src/postgres/over-shards.ts';
import type { Db } from '../../src/postgres/schema.ts';
import { sweepExpired } from '../../src/retention/sweep.sql.ts';
import { openStore, shards } from '../support/database.ts';
import { jsonCaller } from '../support/json.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, query } from '../support/verify.ts';
import { until } from '../support/watch.ts';

const channelType = ChannelType.GROUP;
const text = (bytes: Uint8Array) => Buffer.from(bytes).toString();

/** The reason of a failed call. */
async function reasonOf(call: Promise<unknown>): Promise<string> {
  try {
    await call;
    return 'ok';
  } catch (error) {
    const failure = ConnectError.from(error);
    return failure.findDetails(ErrorInfoSchema)[0]?.reason ?? Code[failure.code];
  }
}

describe('recall and edit', () => {
  let service: TestService;
  let json: ReturnType<typeof jsonCaller>;
  const clientOf = (transport: Transport) => createClient(MessageService, transport);
  let client: ReturnType<typeof clientOf>;
  before(async () => {
    service = await startService({ recallKeepDays: 2, recallLegacyCommand: true });
    json = jsonCaller(service.url);
    client = clientOf(createGrpcTransport({ baseUrl: service.url }));
  });
  after(() => service.stop());

  const send = async (channelId: string, count: number, more: object = {}) => {
    const { results } = await client.sendBatch({
      messages: Array.from({ length: count }, (_, index) => ({
        channelType,
        channelId,
        fromUid: 'ann',
        clientMsgNo: `k${index + 1}`,
        payload: Buffer.from(`m${index + 1}`),
        header: { redDot: 1 },
        ...more,
      })),
    });
    for (const { error } of results) assert.equal(error, undefined);
    return results;
  };
  const history = async (channelId: string, uid = '') =>
    (await client.listMessages({ channelType, channelId, uid })).messages;

  const transports: [string, () => Transport][] = [
    ['gRPC', () => createGrpcTransport({ baseUrl: service.url })],
    ['gRPC-Web', () => createGrpcWebTransport({ baseUrl: service.url, httpVersion: '1.1' })],
    ['Connect, binary', () => createConnectTransport({ baseUrl: service.url, httpVersion: '1.1' })],
    ['Connect, JSON', () => createConnectTransport({ baseUrl: service.url, httpVersion: '2', useBinaryFormat: false })],
  ];
  for (const [name, open] of transports)
    test(`a recall erases content and keeps numbers, an edit adds a revision: ${name}`, async () => {
      const caller = clientOf(open());
      const channelId = `protocol-${name.replace(/\W/g, '')}`;
      const sent = await send(channelId, 4);
      const recalled = await caller.recallMessages({
        channelType,
        channelId,
        messageSeqs: [1n, 9n],
        messageIds: [sent[1]?.messageId ?? 0n],
        clientMsgNos: ['k1', 'none'],
      });
      assert.equal(recalled.recalledCount, 2);
      assert.deepEqual(
        recalled.results.map((each) => [Number(each.messageSeq), each.unchanged, each.error?.reason]),
        [
          [1, false, undefined],
          [9, false, 'MESSAGE_NOT_FOUND'],
          [2, false, undefined],
          [1, true, undefined],
          [0, false, 'MESSAGE_NOT_FOUND'],
        ],
      );
      const edited = await caller.editMessage({
        channelType,
        channelId,
        messageSeq: 3n,
        payload: Buffer.from('better'),
        expectedRevision: 0,
      });
      assert.deepEqual(
        [edited.unchanged, edited.message?.revision, text(edited.message?.payload ?? Buffer.of())],
        [false, 1, 'better'],
      );
      assert.deepEqual(
        (await history(channelId)).map((each) => [
          Number(each.messageSeq),
          each.state,
          text(each.payload),
          each.revision,
          each.clientMsgNo,
          each.recalledBy,
        ]),
        [
          [1, MessageState.RECALLED, '', 0, 'k1', 'anybody'],
          [2, MessageState.RECALLED, '', 0, 'k2', 'anybody'],
          [3, MessageState.EDITED, 'better', 1, 'k3', undefined],
          [4, undefined, 'm4', undefined, 'k4', undefined],
        ],
      );
    });

  test('recall and edit over JSON routes', async () => {
    await send('routes', 3);
    const recalled = await json.post('/v1/channels/2/routes/messages:recall', { message_seqs: [2], uid: 'ann' });
    assert.deepEqual(recalled, {
      status: 200,
      body: {
        recalled_count: 1,
        results: [
          {
            message_seq: 2,
            message_id: recalled.body.results[0].message_id,
            client_msg_no: 'k2',
            unchanged: false,
          },
        ],
      },
    });
    const edited = await json.post('/v1/channels/2/routes/messages/3:edit', {
      payload: Buffer.from('new').toString('base64'),
    });
    assert.equal(edited.status, 200, JSON.stringify(edited.body));
    assert.equal(edited.body.message.revision, 1);
    const page = await json.get('/v1/channels/2/routes/messages');
    assert.deepEqual(
      page.body.messages.map((each: { state?: number; payload: string; recalled_by?: string }) => [
        each.state,
        each.payload,
        each.recalled_by,
      ]),
      [
        [undefined, Buffer.from('m1').toString('base64'), undefined],
        [2, '', 'ann'],
        [1, Buffer.from('new').toString('base64'), undefined],
      ],
    );
    for (const [body, field] of [
      [{}, 'message_seqs'],
      [{ message_seqs: [0] }, 'message_seqs[0]'],
      [
        { message_seqs: Array.from({ length: 600 }, (_, index) => index + 1), message_ids: Array(600).fill(7) },
        'message_seqs',
      ],
      [{ message_seqs: [1], typo: 1 }, 'typo'],
    ] as const) {
      const refused = await json.post('/v1/channels/2/routes/messages:recall', body);
      assert.equal(refused.status, 400);
      assert.ok(refused.body.msg.startsWith(field), refused.body.msg);
    }
  });

  test('a retry of a recalled or edited message is a duplicate of the first send, other content a conflict', async () => {
    const [first, second] = await send('retries', 2);
    await client.recallMessages({ channelType, channelId: 'retries', messageSeqs: [1n] });
    await client.editMessage({ channelType, channelId: 'retries', messageSeq: 2n, payload: Buffer.from('edited') });
    const again = await send('retries', 2);
    assert.deepEqual(
      again.map((each) => [each.duplicate, each.messageId]),
      [
        [true, first?.messageId],
        [true, second?.messageId],
      ],
    );
    const other = await client.sendBatch({
      messages: [
        {
          channelType,
          channelId: 'retries',
          fromUid: 'ann',
          clientMsgNo: 'k2',
          payload: Buffer.from('edited'),
          header: { redDot: 1 },
        },
      ],
    });
    assert.equal(other.results[0]?.error?.reason, 'CLIENT_MSG_NO_REUSED');
    assert.deepEqual(
      (await history('retries')).map((each) => text(each.payload)),
      ['', 'edited'],
    );
    await assertSound(service.databaseUrl);
  });

  test('recalled messages are not unread, are left out of legacy pages, and stay hidden from those who could not read them', async () => {
    const group = { channel_type: 2, channel_id: 'readers' };
    await json.post('/channel', { ...group, subscribers: ['ann', 'bob', 'cid'] });
    await send('readers', 2);
    await send('readers', 1, { clientMsgNo: 'private', subscribers: ['bob'] });
    const unread = async () => (await json.get('/v1/users/bob/conversations')).body.conversations[0].unread_count;
    assert.equal(await unread(), 3);
    await client.recallMessages({ channelType, channelId: 'readers', messageSeqs: [2n, 3n] });
    assert.equal(await unread(), 1);
    const legacy = await json.post('/channel/messagesync', { ...group, login_uid: 'bob', pull_mode: 1, limit: 10 });
    assert.deepEqual(
      legacy.body.messages.map((each: { message_seq: number }) => each.message_seq),
      [1],
    );
    const found = await json.post('/messages', { ...group, login_uid: 'ann', message_seqs: [1, 2] });
    assert.deepEqual(
      found.body.messages.map((each: { state?: number; payload: string }) => [each.state, each.payload]),
      [
        [undefined, Buffer.from('m1').toString('base64')],
        [2, ''],
      ],
    );
    const seqs = async (uid: string) => (await history('readers', uid)).map((each) => Number(each.messageSeq));
    assert.deepEqual(
      [await seqs('ann'), await seqs('bob'), await seqs('cid')],
      [
        [1, 2, 3],
        [1, 2],
        [1, 2],
      ],
    );
    const rows = await query(
      service.databaseUrl,
      `select payload, subscribers from sendbatch.message where client_msg_no = 'private'`,
    );
    assert.deepEqual(rows, [{ payload: Buffer.of(), subscribers: null }]);
  });

  test('an edit is refused when the message is gone, recalled, of another revision, or its sender may not send', async () => {
    const channelId = 'edits';
    await json.post('/channel', { channel_type: 2, channel_id: channelId, subscribers: ['ann'] });
    await send(channelId, 3);
    const edit = (messageSeq: bigint, more: object = {}) =>
      reasonOf(client.editMessage({ channelType, channelId, messageSeq, payload: Buffer.from('x'), ...more }));
    await client.recallMessages({ channelType, channelId, messageSeqs: [1n] });
    assert.equal(await edit(1n), 'MESSAGE_RECALLED');
    assert.equal(await edit(9n), 'MESSAGE_NOT_FOUND');
    assert.equal(await edit(2n, { uid: 'bob' }), 'MESSAGE_NOT_FOUND');
    assert.equal(await edit(2n, { expectedRevision: 1 }), 'REVISION_MISMATCH');
    assert.equal(await edit(2n, { expectedRevision: 0 }), 'ok');
    assert.equal(await edit(2n, { expectedRevision: 0 }), 'REVISION_MISMATCH');
    const same = await client.editMessage({ channelType, channelId, messageSeq: 2n, payload: Buffer.from('x') });
    assert.deepEqual([same.unchanged, same.message?.revision], [true, 1]);
    await json.post('/v1/moderation/rules', { action: 1, keywords: ['forbidden'] });
    assert.equal(await edit(2n, { payload: Buffer.from('a forbidden word') }), 'CONTENT_REFUSED');
    await json.post('/channel', { channel_type: 2, channel_id: channelId, disband: 1 });
    assert.equal(await edit(3n), 'CHANNEL_DISBANDED');
    // A disbanded channel takes recalls.
    const late = await client.recallMessages({ channelType, channelId, messageSeqs: [3n] });
    assert.equal(late.recalledCount, 1);
  });

  test('contents that were replaced are kept as copies, in pages, until they are swept', async () => {
    const channelId = 'copies';
    await send(channelId, 1, { subscribers: ['ann', 'bob'] });
    const edit = (text: string) =>
      client.editMessage({ channelType, channelId, messageSeq: 1n, payload: Buffer.from(text) });
    await edit('second');
    await edit('third');
    await client.recallMessages({ channelType, channelId, messageSeqs: [1n] });
    const first = await client.listMessageCopies({ channelType, channelId, messageSeq: 1n, pageSize: 2 });
    const { nextPageToken: pageToken } = first;
    const rest = await client.listMessageCopies({ channelType, channelId, messageSeq: 1n, pageSize: 2, pageToken });
    const copies = [...first.copies, ...rest.copies];
    assert.deepEqual(
      copies.map((each) => [each.revision, text(each.payload), each.replacedBy, each.subscribers]),
      [
        [0, 'm1', ChangeKind.EDITED, ['ann', 'bob']],
        [1, 'second', ChangeKind.EDITED, ['ann', 'bob']],
        [2, 'third', ChangeKind.RECALLED, ['ann', 'bob']],
      ],
    );
    assert.deepEqual([first.nextPageToken, rest.nextPageToken], ['1', '']);
    const at = Number(copies[0]?.replacedAt?.seconds);
    assert.ok(Math.abs(at - Date.now() / 1000) < 3600, `${at}`);
    const none = await json.get('/v1/channels/2/copies/messages/9/copies');
    assert.deepEqual([none.status, none.body], [200, { copies: [], next_page_token: '' }]);
    const db = openStore(service.databaseUrl);
    const swept = await overShards(db, shards.all, (shard) => sweepCopies(shard, Date.now() + 3_600_000, 1000));
    assert.ok(swept.reduce((sum, each) => sum + each, 0) >= 3);
    await db.destroy();
    assert.deepEqual((await client.listMessageCopies({ channelType, channelId, messageSeq: 1n })).copies, []);
  });

  test('a recall sends the command of TangSengDaoDao to the readers of the message, once', async () => {
    const group = { channel_type: 2, channel_id: 'revoked' };
    await json.post('/channel', { ...group, subscribers: ['ann', 'bob', 'cid'] });
    const [sent] = await send('revoked', 1);
    const [restricted] = await send('revoked', 1, { clientMsgNo: 'private', subscribers: ['bob'] });
    const batches = createClient(BatchService, createGrpcTransport({ baseUrl: service.url }));
    const { batch } = await batches.submitBatch({
      messages: [
        { channelType, channelId: 'revoked', fromUid: 'ann', clientMsgNo: 'of batch', payload: Buffer.from('x') },
      ],
    });
    const batchId = batch?.batchId ?? '';
    const end = async () => {
      let last = batch;
      for await (const { batch: now } of batches.watchBatch({ batchId })) last = now;
      return last;
    };
    await end();
    const recall = () => client.recallMessages({ channelType, channelId: 'revoked', messageSeqs: [1n, 2n] });
    assert.equal((await recall()).recalledCount, 2);
    assert.equal((await recall()).recalledCount, 0);
    await batches.recallBatch({ batchId });
    assert.equal((await end())?.recalledCount, 1);
    const [ofBatch] = (await history('revoked')).slice(2);
    const commandsOf = async (uid: string) =>
      (await json.post('/message/sync', { uid, message_seq: 0, limit: 100 })).body
        .filter((each: { channel_id: string }) => each.channel_id === 'revoked')
        .map((each: { payload: string; from_uid: string; channel_id: string; header: { sync_once: number } }) => [
          each.from_uid,
          each.channel_id,
          each.header.sync_once,
          JSON.parse(Buffer.from(each.payload, 'base64').toString()),
        ]);
    const command = (messageId: bigint | undefined) => [
      'ann',
      'revoked',
      1,
      { type: 99, cmd: 'messageRevoke', param: { message_id: String(messageId) } },
    ];
    assert.deepEqual(await commandsOf('cid'), [command(sent?.messageId), command(ofBatch?.messageId)]);
    assert.deepEqual(await commandsOf('bob'), [
      command(sent?.messageId),
      command(restricted?.messageId),
      command(ofBatch?.messageId),
    ]);
  });

  test('a recall at once with retries of its send and with the sweeper leaves one message or none, and a sound store', async () => {
    const channelId = 'races';
    const db = openStore(service.databaseUrl, { poolSize: 2 });
    try {
      for (let round = 0; round < 15; round++) {
        const messages = [
          {
            channelType,
            channelId,
            fromUid: 'ann',
            clientMsgNo: `race ${round}`,
            payload: Buffer.from('x'),
            expire: 1_000_000,
          },
        ];
        const { results } = await client.sendBatch({ messages });
        const seq = results[0]?.messageSeq ?? 0n;
        const dayLater = Date.now() + 2_000_000_000;
        const [retry, recalled, swept] = await Promise.all([
          client.sendBatch({ messages }),
          client.recallMessages({ channelType, channelId, messageSeqs: [seq] }),
          round % 2 === 0 ? overShards(db, shards.all, (shard) => sweepExpired(shard, 1000, dayLater)) : [],
        ]);
        const kept = (await client.getMessages({ channelType, channelId, messageSeqs: [seq] })).messages;
        const [again] = retry.results;
        // The sweeper may have removed other messages, and left this one to the recall.
        if (kept.length === 0) assert.ok(swept.some((count) => count > 0));
        else {
          assert.deepEqual([again?.duplicate, again?.messageSeq], [true, seq]);
          assert.equal(recalled.recalledCount, 1);
          assert.deepEqual(
            kept.map((each) => [each.state, each.payload.length]),
            [[MessageState.RECALLED, 0]],
          );
        }
      }
      for await (const { faults } of verify({ db, shards })) assert.deepEqual(faults, []);
    } finally {
      await db.destroy();
    }
  });

  test('edits and recalls at once: each edit adds one revision, a recall ends them, changes are numbered without gaps', async () => {
    const channelId = 'race';
    await send(channelId, 20);
    const edits = Array.from({ length: 60 }, (_, index) =>
      reasonOf(
        client.editMessage({
          channelType,
          channelId,
          messageSeq: BigInt((index % 20) + 1),
          payload: Buffer.from(`edit ${index}`),
        }),
      ),
    );
    const recalls = Array.from({ length: 10 }, (_, index) =>
      client.recallMessages({
        channelType,
        channelId,
        messageSeqs: [BigInt(index + 1), BigInt(((index + 5) % 10) + 1)],
      }),
    );
    const [outcomes, answers] = await Promise.all([Promise.all(edits), Promise.all(recalls)]);
    const recalled = answers.reduce((sum, each) => sum + each.recalledCount, 0);
    assert.equal(recalled, 10);
    for (const outcome of outcomes) assert.ok(['ok', 'MESSAGE_RECALLED'].includes(outcome), outcome);
    const messages = await history(channelId);
    for (const message of messages) {
      const isRecalled = Number(message.messageSeq) <= 10;
      assert.equal(message.state, isRecalled ? MessageState.RECALLED : MessageState.EDITED);
      if (isRecalled) assert.equal(message.payload.length, 0);
      else assert.equal(message.revision, 3);
    }
    const changes = await query(
      service.databaseUrl,
      `select c.change_no::text, c.kind::text, c.message_seq::text from sendbatch.message_change c
       where channel_key = (select channel_key from sendbatch.channel where channel_id = '${channelId}' and sequence = 0) order by c.change_no`,
    );
    assert.deepEqual(
      changes.map((each) => each.change_no),
      changes.map((_, index) => String(index + 1)),
    );
    const edited = messages.reduce((sum, each) => sum + (each.revision ?? 0), 0);
    assert.equal(changes.length, edited + recalled);
    // No edit follows the recall of its message.
    for (const seq of Array.from({ length: 10 }, (_, index) => index + 1))
      assert.equal(changes.filter((each) => Number(each.message_seq) === seq).at(-1)?.kind, '2');
  });
});

describe('tails of changes', () => {
  let service: TestService;
  let other: TestService;
  const clientOf = ({ url }: TestService) => createClient(MessageService, createGrpcTransport({ baseUrl: url }));
  before(async () => {
    service = await startService();
    other = await startService({ databaseUrl: service.databaseUrl });
  });
  after(async () => {
    await other.stop();
    await service.stop();
  });

  const send = (channelId: string, keys: readonly string[]) =>
    clientOf(service).sendBatch({
      messages: keys.map((key) => ({
        channelType,
        channelId,
        fromUid: 'ann',
        clientMsgNo: key,
        payload: Buffer.from(key),
      })),
    });
  const edit = (channelId: string, seq: number, payload: string) =>
    clientOf(service).editMessage({ channelType, channelId, messageSeq: BigInt(seq), payload: Buffer.from(payload) });
  const recall = (channelId: string, ...seqs: number[]) =>
    clientOf(service).recallMessages({ channelType, channelId, messageSeqs: seqs.map(BigInt) });

  type Position = { readonly afterSeq?: bigint; readonly afterChange?: bigint };
  /** Reads frames until there are `count` without heartbeats, as `what seq text @change`. */
  async function frames(from: TestService, channelId: string, position: Position, count: number): Promise<string[]> {
    const stop = new AbortController();
    const found: string[] = [];
    try {
      const stream = clientOf(from).subscribe(
        { channels: [{ channelType, channelId, ...position }] },
        { signal: stop.signal },
      );
      for await (const { frame, lastChange } of stream) {
        if (frame.case === 'message')
          found.push(`message ${frame.value.messageSeq} ${text(frame.value.payload)} @${lastChange}`);
        else if (frame.case === 'changed')
          found.push(
            `${frame.value.kind === 1 ? 'edited' : 'recalled'} ${frame.value.message?.messageSeq} ${text(frame.value.message?.payload ?? Buffer.of())} @${lastChange}`,
          );
        else if (frame.case === 'caughtUp') found.push(`caught up ${frame.value.lastSeq} @${lastChange}`);
        if (found.length === count) break;
      }
    } finally {
      stop.abort();
    }
    return found;
  }

  test('a new reader sees the present state, one that resumes every change once and in order', async () => {
    await send('states', ['a', 'b', 'c']);
    await edit('states', 1, 'a2');
    await recall('states', 2);
    await edit('states', 1, 'a3');
    assert.deepEqual(await frames(service, 'states', {}, 4), [
      'message 1 a3 @3',
      'message 2  @3',
      'message 3 c @3',
      'caught up 3 @3',
    ]);
    assert.deepEqual(await frames(other, 'states', { afterSeq: 3n, afterChange: 0n }, 4), [
      'edited 1 a3 @1',
      'recalled 2  @2',
      'edited 1 a3 @3',
      'caught up 3 @3',
    ]);
    assert.deepEqual(await frames(service, 'states', { afterSeq: 2n, afterChange: 2n }, 3), [
      'message 3 c @2',
      'edited 1 a3 @3',
      'caught up 3 @3',
    ]);
    assert.equal(await reasonOf(frames(service, 'states', { afterChange: 4n }, 1)), 'SEQ_AHEAD');
    await query(
      service.databaseUrl,
      `delete from sendbatch.message_change where change_no <= 2 and channel_key = (select channel_key from sendbatch.channel where channel_id = 'states')`,
    );
    assert.equal(await reasonOf(frames(service, 'states', { afterChange: 1n }, 1)), 'SEQ_EXPIRED');
  });

  test('readers of every instance receive a change while they follow', async () => {
    await send('live', ['a', 'b']);
    const readers = [service, other].map((each) => frames(each, 'live', {}, 6));
    const isFollowed = (at: TestService) =>
      query(at.databaseUrl, 'select 1')
        .then(() => at.metrics())
        .then((page) => /sendbatch_tail_readers(\{[^}]*\})? 1$/m.test(page));
    await until('both follow', async () => (await isFollowed(service)) && (await isFollowed(other)));
    await recall('live', 1);
    await edit('live', 2, 'b2');
    await send('live', ['c']);
    for (const reader of readers) {
      const seen = await reader;
      assert.deepEqual(
        seen.filter((each) => !/^(message|caught)/.test(each)),
        ['recalled 1  @1', 'edited 2 b2 @2'],
      );
    }
  });

  test('the event stream numbers its ids by sequence and change, and a reader resumes both', async () => {
    await send('sse', ['a', 'b']);
    const read = async (headers: Record<string, string>, count: number) => {
      const stop = new AbortController();
      const response = await fetch(`${service.url}/v1/channels/2/sse/events`, { headers, signal: stop.signal });
      const events: string[] = [];
      let rest = '';
      for await (const chunk of response.body?.pipeThrough(new TextDecoderStream()) ?? []) {
        const parts = (rest + chunk).split('\n\n');
        rest = parts.pop() ?? '';
        for (const part of parts) {
          const [, id] = /^id: (.*)$/m.exec(part) ?? [];
          const [, event] = /^event: (.*)$/m.exec(part) ?? [];
          if (event !== undefined) events.push(`${event} ${id}`);
        }
        if (events.length >= count) break;
      }
      stop.abort();
      return events;
    };
    assert.deepEqual(await read({}, 3), ['message 1.0', 'message 2.0', 'caught_up 2.0']);
    await recall('sse', 1);
    await edit('sse', 2, 'b2');
    assert.deepEqual(await read({ 'last-event-id': '2.0' }, 3), ['changed 2.1', 'changed 2.2', 'caught_up 2.2']);
    assert.deepEqual(await read({ 'last-event-id': '2.1' }, 2), ['changed 2.2', 'caught_up 2.2']);
    assert.deepEqual(await read({ 'last-event-id': '1' }, 2), ['message 2.2', 'caught_up 2.2']);
  });
});

describe('who may recall and edit', () => {
  let service: TestService;
  let store: Db;
  let keys: Keys;
  const open = { uid: '', channelType, channelId: 'rights' };
  before(async () => {
    service = await startService({
      requiresCredential: true,
      open: false,
      identity: { tokens: undefined, certificateScopes: undefined },
      recallWindowMs: 60_000,
    });
    store = openStore(service.databaseUrl);
    keys = createKeys(store);
    const admin = await clientFor(['send', 'read', 'admin']);
    await admin.sendBatch({
      messages: ['ann', 'ann', 'bob'].map((fromUid, index) => ({
        ...open,
        fromUid,
        clientMsgNo: `${index}`,
        payload: Buffer.from('x'),
      })),
    });
    // The first message is an hour old.
    await query(
      service.databaseUrl,
      `update sendbatch.message set accepted_at = accepted_at - 3600000 where client_msg_no = '0'`,
    );
  });
  after(async () => {
    await store.destroy();
    await service.stop();
  });

  const clientFor = async (scopes: Scope[], senders?: string[]) => {
    const { key } = await keys.create({ name: 'test', scopes, ...(senders === undefined ? {} : { senders }) });
    return createClient(
      MessageService,
      createGrpcTransport({
        baseUrl: service.url,
        interceptors: [
          (next) => (request) => {
            request.header.set('authorization', `Bearer ${key}`);
            return next(request);
          },
        ],
      }),
    );
  };

  const rows: [string, Scope[], string[] | undefined, object, string[]][] = [
    ['a service that may send as anybody', ['send', 'read'], undefined, {}, ['RECALL_WINDOW_OVER', 'ok', 'ok']],
    ['for one user', ['send', 'read'], undefined, { uid: 'bob' }, ['MESSAGE_NOT_FOUND', 'MESSAGE_NOT_FOUND', 'ok']],
    ['a service with senders', ['send', 'read'], ['ann'], {}, ['RECALL_WINDOW_OVER', 'ok', 'SENDER_NOT_YOURS']],
    ['a service that cannot read', ['send'], ['ann'], {}, ['RECALL_WINDOW_OVER', 'ok', 'MESSAGE_NOT_FOUND']],
    ['an administrator', ['send', 'admin'], undefined, {}, ['ok', 'ok', 'ok']],
    ['a reader', ['read'], undefined, {}, ['SCOPE_MISSING', 'SCOPE_MISSING', 'SCOPE_MISSING']],
  ];
  // In the order of the rows: the last ones recall what the first ones could not.
  for (const [who, scopes, senders, more, expected] of rows)
    test(`permission to edit and recall: ${who}`, async () => {
      const client = await clientFor(scopes, senders);
      const outcomes = async (change: (messageSeq: bigint) => Promise<unknown>) => {
        const found: string[] = [];
        for (const seq of [1n, 2n, 3n]) found.push(await reasonOf(change(seq)));
        return found;
      };
      const payload = Buffer.from(who);
      assert.deepEqual(
        await outcomes((messageSeq) => client.editMessage({ ...open, ...more, messageSeq, payload })),
        expected,
      );
      const recallOne = async (messageSeq: bigint) => {
        const rolled = await client.recallMessages({ ...open, ...more, messageSeqs: [messageSeq] });
        const reason = rolled.results[0]?.error?.reason;
        if (reason !== undefined)
          throw new ConnectError(reason, Code.Unknown, undefined, [{ desc: ErrorInfoSchema, value: { reason } }]);
      };
      if (who === 'an administrator' || who === 'a reader') assert.deepEqual(await outcomes(recallOne), expected);
      else if (!expected.includes('ok')) return;
      else
        assert.deepEqual(
          await outcomes(async (seq) => {
            if (expected[Number(seq) - 1] !== 'ok') await recallOne(seq);
          }),
          expected,
        );
    });
});
