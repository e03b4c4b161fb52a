import assert from 'node:assert/strict';
import pg from 'pg';
import { limits } from '../../src/limits.ts';
import { acrossShards, createShardViews, perShard, shards } from './database.ts';

/** One stored message in the form that tests compare. */
export interface StoredRow {
  readonly channel: string;
  readonly type: number;
  readonly seq: number;
  readonly id: number;
  readonly fromUid: string;
  readonly key: string;
  readonly payload: string;
}

/** Reads every message in a database, or those that match, bypassing the service. */
export async function readAll(
  url: string,
  { channel = /^/, key = /^/ }: { readonly channel?: RegExp; readonly key?: RegExp } = {},
): Promise<StoredRow[]> {
  return await ask(url, async (client) => {
    const { rows } = await client.query<Record<string, string>>(
      acrossShards(`select c.channel_id, c.channel_type, m.message_seq, m.message_id, m.from_uid, m.client_msg_no, encode(m.payload, 'escape') as payload
       from sendbatch.message m join sendbatch.channel c using (channel_key)
       where c.channel_id ~ $1 and m.client_msg_no ~ $2
       order by c.channel_id, c.channel_type, c.sequence, m.message_seq`),
      [channel.source, key.source],
    );
    return rows.map((row) => ({
      channel: row.channel_id ?? '',
      type: Number(row.channel_type),
      seq: Number(row.message_seq),
      id: Number(row.message_id),
      fromUid: row.from_uid ?? '',
      key: row.client_msg_no ?? '',
      payload: row.payload ?? '',
    }));
  });
}

/**
 * Asserts the promises of the store: every channel is dense from 1 up to its head, no key occurs
 * twice, ids are unique and rise with the sequence.
 */
export async function assertSound(url: string): Promise<void> {
  await ask(url, async (client) => {
    const check = async (what: string, sql: string) => {
      const { rows } = await client.query(acrossShards(`${sql} limit 10`));
      assert.deepEqual(rows, [], what);
    };
    await check(
      'a channel has gaps, or its head is not its last message',
      `select h.channel_key, h.last_seq, count(m.*), min(m.message_seq), max(m.message_seq)
       from sendbatch.channel_head h left join sendbatch.message m using (channel_key)
       group by h.channel_key, h.last_seq
       having count(m.*) <> h.last_seq or coalesce(max(m.message_seq), 0) <> h.last_seq or coalesce(min(m.message_seq), 1) <> 1`,
    );
    await check(
      'a message is stored twice',
      `select channel_key, from_uid, client_msg_no from sendbatch.message group by 1, 2, 3 having count(*) > 1`,
    );
    await check('an id is used twice', `select message_id from sendbatch.message group by 1 having count(*) > 1`);
    await check(
      'an id is above 2^53-1',
      `select message_id from sendbatch.message where message_id > 9007199254740991`,
    );
    await check(
      'ids do not rise with the sequence',
      `select * from (select channel_key, message_id, lag(message_id) over (partition by channel_key order by message_seq) as before
         from sendbatch.message) as pairs where before >= message_id`,
    );
    await check(
      'an id names another shard than the channel of its message',
      `select channel_key, message_id from sendbatch.message
       where message_id / ${limits.idsPerBlock} % ${shards.count} <> channel_key % ${shards.count}`,
    );
  });
}

/**
 * Runs one statement, bypassing the service: on all shards at once, or on one after the other if it
 * changes something.
 */
export async function query(
  url: string,
  sql: string,
  values: readonly unknown[] = [],
): Promise<Record<string, string>[]> {
  const texts = /\b(update|delete|insert|truncate)\b/i.test(sql) ? perShard(sql) : [acrossShards(sql)];
  return await ask(url, async (client) => {
    const rows: Record<string, string>[] = [];
    for (const text of texts) {
      const found = await client.query<Record<string, string>>(text, values.length === 0 ? undefined : [...values]);
      rows.push(...(found.rows ?? []));
    }
    return rows;
  });
}

async function ask<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await createShardViews(client);
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}
