import assert from 'node:assert/strict';
import { test } from 'node:test';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { createClient } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { BatchService } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { jsonCaller } from '../support/json.ts';
import { startReceiver } from '../support/receiver.ts';
import { startService } from '../support/service.ts';
import { query } from '../support/verify.ts';
import { until } from '../support/watch.ts';

const yearMs = 400 * 86_400_000;
const payload = Buffer.from('x').toString('base64');

/** The rows of every table of the schema. */
async function rowsOf(url: string): Promise<Record<string, number>> {
  const tables = await query(
    url,
    `select table_name as name from information_schema.tables where table_schema = 'sendbatch' and table_name not like 'migration%'`,
  );
  const counts = tables.map(
    ({ name }) => `select '${name}' as name, count(*)::integer as count from sendbatch.${name}`,
  );
  const rows = await query(url, counts.join(' union all '));
  return Object.fromEntries(
    rows.map((row) => [String(row.name), Number(row.count)]).filter(([, count]) => count !== 0),
  );
}

/**
 * Lets time pass for everything stored: moves every time column back by the same amount. Channels
 * last: a sweeper in between would note that the oldest message of one is new.
 */
async function pass(url: string, ms: number): Promise<void> {
  const columns = await query(
    url,
    `select table_name as "table", column_name as "column" from information_schema.columns
     where table_schema = 'sendbatch' and data_type = 'bigint' and table_name not like 'migration%'
       and (column_name like '%\\_at' or column_name like '%\\_until' or column_name in ('since') or table_name = 'rate' and column_name = 'expire')
     order by table_name = 'channel'`,
  );
  for (const { table, column } of columns)
    await query(url, `update sendbatch.${table} set ${column} = ${column} - ${ms} where ${column} > ${ms}`);
}

test('every table returns to what is kept on purpose after the data of every kind of traffic has expired', async () => {
  const service = await startService({
    sweepIntervalMs: 100,
    retention: [
      { channelType: 1, days: 30 },
      { channelType: 2, days: 30 },
    ],
    rates: { caller: [], sender: [{ points: 1000, seconds: 3600 }], channel: [], store: 'postgres' },
    webhooks: { settings: undefined, allowPrivate: true, timeoutMs: 60_000, retrySchedule: { maxAttempts: 1 } },
  });
  const url = service.databaseUrl;
  const good = await startReceiver();
  const bad = await startReceiver();
  // Parks its first delivery.
  bad.answer = (response) => response.writeHead(bad.received.length === 1 ? 500 : 200).end();
  try {
    const json = jsonCaller(service.url);
    const post = async (path: string, body: unknown) => {
      const answer = await json.post(path, body);
      assert.equal(answer.status, 200, `${path}: ${JSON.stringify(answer.body)}`);
      return answer.body;
    };
    const send = (messages: object[]) =>
      post(
        '/message/sendbatch',
        messages.map((each) => ({ from_uid: 'u1', payload, ...each })),
      );

    // Stays: users, and messages of a type without retention.
    await post('/v1/webhooks', { name: 'good', url: good.url });
    await post('/v1/webhooks', { name: 'bad', url: bad.url });
    await post('/channel', { channel_id: 'group', channel_type: 2, subscribers: ['u1', 'u2'] });
    await send([{ channel_id: 'kept', channel_type: 3, client_msg_no: 'kept' }]);
    await send([{ channel_id: 'u2', channel_type: 1 }]);
    await send([{ channel_id: 'group', channel_type: 2, header: { sync_once: 1 }, expire: 60 }]);
    await post('/v1/users/u2/conversations:read', { channel_id: 'group', channel_type: 2, read_seq: 0 });

    // Expires.
    for (let round = 0; round < 20; round++) {
      await send([
        { channel_id: 'group', channel_type: 2, client_msg_no: `g${round % 10}` },
        { channel_id: 'group', channel_type: 2, expire: 60 },
        { channel_id: 'kept', channel_type: 3, expire: 60 },
        { channel_id: 'u2', channel_type: 1 },
        { channel_id: 'group', channel_type: 2, header: { no_persist: 1 } },
      ]);
      await send([
        {
          channel_id: '',
          subscribers: ['r1', `r${2 + (round % 3)}`],
          header: { sync_once: 1 },
          expire: round % 2 ? 60 : 0,
        },
      ]);
    }
    for (const uid of ['u2', 'r1', 'r2']) await post('/message/sync', { uid, message_seq: 0, limit: 0 });
    for (const uid of ['r1', 'r2', 'r3', 'r4']) {
      const commands = await post('/message/sync', { uid, message_seq: 0, limit: 0 });
      await post('/message/syncack', { uid, last_message_seq: commands.at(-1)?.message_seq ?? 0 });
    }
    await post('/v1/templates', { name: 'short-lived', body: 'x' });
    await fetch(`${service.url}/v1/templates/short-lived`, { method: 'DELETE' });
    const batches = createClient(BatchService, createGrpcTransport({ baseUrl: service.url }));
    const messages = Array.from({ length: 1500 }, () => ({
      channelId: 'group',
      channelType: ChannelType.GROUP,
      fromUid: 'batch',
      payload: Buffer.from('x'),
    }));
    const sent = (await batches.submitBatch({ messages: messages.slice(0, 900) })).batch?.batchId ?? '';
    const later = await batches.submitBatch({ messages, sendAt: timestampFromMs(Date.now() + 3600_000) });
    await batches.cancelBatch({ batchId: later.batch?.batchId ?? '' });
    for await (const _ of batches.watchBatch({ batchId: sent }));
    // A submission whose caller disconnected when its instance ended.
    await query(
      url,
      `insert into sendbatch.batch (batch_id, created_at, received_at, turns_taken, priority, message_count, state, caller_id, caller, name, request_id, content_hash, templates)
       select gen_random_uuid(), received_at, received_at, 0, 4, 0, 'receiving', 'x', '{}', '', '', '', '[]' from sendbatch.batch limit 1;
       insert into sendbatch.batch_chunk (batch_id, ordinal, due_at, drafts) select batch_id, 0, 0, '[]' from sendbatch.batch where state = 'receiving'`,
    );
    await until('the webhooks have what is for them, or it is parked', async () => {
      const { webhook_outbox: outbox, webhook_queue: queue } = await rowsOf(url);
      return outbox === undefined && queue === undefined;
    });
    const full = await rowsOf(url);
    for (const table of ['live_message', 'rate', 'command_inbox', 'webhook_parked', 'batch', 'template_deleted'])
      assert.ok((full[table] ?? 0) > 0, `${table} has rows: the traffic is of every kind`);

    await pass(url, yearMs);
    const expected = {
      message: 1,
      // The group and its commands, `kept`, and u1@u2.
      channel: 4,
      channel_head: 4,
      channel_info: 1,
      channel_uid: 4,
      swept: 4,
      read_cursor: full.read_cursor,
      command_head: full.command_head,
      command_taken: 1,
      webhook: 2,
      webhook_lane: 18,
      // This service, and the number of shards.
      instance: 1,
      shard_layout: 1,
      moderation_version: 1,
    };
    let left = {};
    await until('the sweepers have taken what is over', async () => {
      left = await rowsOf(url);
      return JSON.stringify(Object.entries(left).sort()) === JSON.stringify(Object.entries(expected).sort());
    }).catch(() => assert.deepEqual(left, expected));
  } finally {
    await good.close();
    await bad.close();
    await service.stop();
  }
});
