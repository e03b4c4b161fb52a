// Explains each kind of read: `scripts/node/node bench/explain.ts [--messages 5000000] [--write]`.
// Fills a database, runs the product's own read functions, and prints what their statements
// examined and how long they took, from `explain (analyze, buffers)`. `--write` stores the table in
// RESULTS.md. The cost must follow what is returned, not what is stored.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Kysely, PostgresDialect } from 'kysely';
import pg from 'pg';
import { trustedCaller } from '../src/messages/caller.ts';
import { ChannelKeys } from '../src/messages/channel-keys.sql.ts';
import { memberChannels } from '../src/messages/member-lists.sql.ts';
import { PreparingClient } from '../src/postgres/client.ts';
import type { Db, Tables } from '../src/postgres/schema.ts';
import { oneShard } from '../src/postgres/shards.ts';
import { Execution } from '../src/postgres/sql.ts';
import { createInbox } from '../src/reading/inbox.ts';
import { createReadChannel, type ReadCall } from '../src/reading/read-channel.ts';
import { startCluster } from '../test/support/cluster.ts';
import { migrateDatabase } from '../test/support/database.ts';
import { timeOfVerify } from './verifying.ts';

const { values } = parseArgs({
  options: { messages: { type: 'string', default: '5000000' }, write: { type: 'boolean', default: false } },
});
const messages = Number(values.messages);
/**
 * Two fifths of the messages are in one channel, one fifth in another, 300,000 commands for other
 * receivers in a third, and the rest in channels of 100.
 */
const hot = Math.floor(messages * 0.4);
const warm = Math.floor(messages * 0.2);
const commands = Math.min(300_000, Math.floor(messages * 0.06));
const small = Math.floor((messages - hot - warm - commands) / 100);
const temporary = 20_000;
const start = 1_700_000_000_000;

const cluster = await startCluster({
  durable: false,
  settings: { shared_buffers: '1GB', max_wal_size: '8GB', max_connections: '50' },
});
const url = cluster.url('sendbatch');
try {
  await migrateDatabase(url, 1);
  await fill();
  const table = await measure();
  console.log(table);
  if (values.write) keep(table);
} finally {
  await cluster.stop();
}

async function fill(): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const channel = async (id: string, type: number, sequence = 0) => {
    const { rows } = await client.query<{ channel_key: string }>(
      'insert into sendbatch.channel (channel_id, channel_type, sequence) values ($1, $2, $3) returning channel_key',
      [id, type, sequence],
    );
    return Number(rows[0]?.channel_key);
  };
  let block = 0;
  const fillChannel = async (key: number, count: number, tag = 'null', subscribers = 'null', flags = '2') => {
    await client.query(`
      insert into sendbatch.message (channel_key, message_seq, message_id, accepted_at, dedupe_key, flags, content_hash, from_uid, client_msg_no, payload, tag_key, subscribers)
      select ${key}, n, ${block}::bigint + n, ${start}::bigint + n * 10, md5('${key} ' || n)::uuid, ${flags}, decode(md5(n::text), 'hex'),
        'user' || n % 1000, 'key' || n, convert_to(repeat('payload ', 12), 'UTF8'), ${tag}, ${subscribers}
      from generate_series(1, ${count}) n`);
    await client.query(`insert into sendbatch.channel_head (channel_key, last_seq) values (${key}, ${count})`);
    block += count;
  };
  const member = (key: number) =>
    client.query(
      `insert into sendbatch.channel_uid (channel_key, uid, created_at, updated_at, member, joined_seq, joined_command_seq) values (${key}, 'me', 0, 0, true, 0, 0)`,
    );
  const hotKey = await channel('hot', 2);
  await fillChannel(hotKey, hot, `case when n % 10000 = 0 then 'rare' end`, 'null', '0');
  await member(hotKey);
  const warmKey = await channel('warm', 2);
  await fillChannel(warmKey, warm);
  await member(warmKey);
  const base = await channel('commands', 2);
  await client.query(`insert into sendbatch.channel_head (channel_key) values (${base})`);
  await member(base);
  await fillChannel(await channel('commands', 2, 1), commands, 'null', `'["somebody"]'`, '4');
  await client.query(`
    with made as (
      insert into sendbatch.channel (channel_id, channel_type, sequence) select 'small' || n, 2, 0 from generate_series(1, ${small}) n returning channel_key
    ), heads as (insert into sendbatch.channel_head (channel_key, last_seq) select channel_key, 100 from made)
    insert into sendbatch.message (channel_key, message_seq, message_id, accepted_at, dedupe_key, flags, content_hash, from_uid, client_msg_no, payload)
    select channel_key, n, ${block}::bigint + channel_key * 100 + n, ${start}::bigint + n * 10, md5(channel_key || ' ' || n)::uuid, 2, decode(md5(n::text), 'hex'),
      'user' || n, 'key' || n, convert_to(repeat('payload ', 12), 'UTF8')
    from made cross join generate_series(1, 100) n`);
  // Channels of commands to sets of receivers, each with one acknowledged command.
  await client.query(`
    with base as (
      insert into sendbatch.channel (channel_id, channel_type, sequence) select md5('t' || n), 8, 0 from generate_series(1, ${temporary}) n returning channel_key
    ), heads as (insert into sendbatch.channel_head (channel_key) select channel_key from base)
    insert into sendbatch.channel_uid (channel_key, uid, created_at, updated_at, member, joined_seq, joined_command_seq)
    select channel_key, 'me', 0, 0, true, 0, 0 from base`);
  await client.query(`
    with made as (
      insert into sendbatch.channel (channel_id, channel_type, sequence) select md5('t' || n), 8, 1 from generate_series(1, ${temporary}) n returning channel_key
    ), heads as (insert into sendbatch.channel_head (channel_key, last_seq) select channel_key, 1 from made)
    , swept as (insert into sendbatch.swept (channel_key, messages) select channel_key, 1 from made)
    insert into sendbatch.command_taken (uid, channel_key, taken_seq) select 'me', channel_key, 1 from made`);
  await client.query(`select setval('sendbatch.message_block', 1000000000)`);
  await client.query('vacuum analyze');
  await client.end();
}

async function measure(): Promise<string> {
  const statements: { sql: string; parameters: readonly unknown[] }[] = [];
  const types = {
    getTypeParser: (oid: number, format?: 'text' | 'binary') =>
      oid === 20 ? Number : pg.types.getTypeParser(oid, format as 'text'),
  };
  const pool = new pg.Pool({ connectionString: url, max: 1, types, Client: PreparingClient });
  const db: Db = new Kysely<Tables>({
    dialect: new PostgresDialect({ pool }),
    log: ({ query }) => {
      const [execution] = query.parameters;
      const isPrepared = execution instanceof Execution;
      statements.push(isPrepared ? { sql: execution.statement.text, parameters: execution.values } : query);
    },
  });
  const everybody = { has: () => true };
  const rules = { systemUids: everybody, systemReaders: everybody, enforcePersonAllowlist: false };
  const store = { db, shards: oneShard, channelKeys: new ChannelKeys(db), rules };
  const history = createReadChannel(store);
  const inbox = createInbox(store);
  const reader = { caller: trustedCaller, uid: '' };
  const me = { caller: trustedCaller, uid: 'me' };
  const page = (more: Partial<ReadCall>) => () =>
    history.page({
      ...reader,
      channelType: 2,
      channelId: 'hot',
      afterSeq: 0,
      beforeSeq: 0,
      limit: 100,
      descending: false,
      ...more,
    });
  const middle = start + hot * 5;
  const rows: [string, () => Promise<unknown>][] = [
    ['history: a page', page({ afterSeq: Math.floor(hot / 2) })],
    ['history: since', page({ filter: { since: middle } })],
    ['history: until, newest first', page({ descending: true, filter: { until: middle } })],
    ['history: tag_key of one message in 10,000', page({ filter: { tagKey: 'rare' } })],
    ['history: from_uid of one message in 1,000', page({ filter: { fromUid: 'user7' } })],
    ['history: from_uid of none, until it is cut', page({ filter: { fromUid: 'nobody' } })],
    ['conversations', () => inbox.conversations(me, undefined, 101)],
    ['commands: 300,000 for others, first sync', () => inbox.commands(me, 0, 200)],
    ['commands: 20,000 temporary channels, nothing new', () => inbox.commands(me, 0, 200)],
    ['all_of_uid: the channels of a user', () => memberChannels(store, 'me', 10_001)],
  ];
  const lines = [
    '| read | statements | ms | pages touched | rows examined |',
    '| ---- | ---------- | -- | ------------- | ------------- |',
  ];
  for (const [name, work] of rows) {
    const isOnce = name.includes('first sync');
    if (!isOnce) await work();
    statements.length = 0;
    const began = performance.now();
    await work();
    const ms = performance.now() - began;
    const asked = statements.filter(({ sql }) => /^\s*(select|with)\b/i.test(sql) && !isOnce);
    let [pages, examined] = [0, 0];
    for (const { sql, parameters } of [...asked]) {
      const { rows: plans } = await pool.query(`explain (analyze, buffers, timing off, format json) ${sql}`, [
        ...parameters,
      ]);
      const plan = plans[0]['QUERY PLAN'][0].Plan;
      pages += plan['Shared Hit Blocks'] + plan['Shared Read Blocks'];
      examined += leavesOf(plan);
    }
    lines.push(
      `| ${name} | ${statements.length} | ${ms.toFixed(1)} | ${isOnce ? '' : pages} | ${isOnce ? '' : examined} |`,
    );
  }
  await db.destroy();
  return `${lines.join('\n')}\n\n${await timeOfVerify(url)}`;
}

interface Plan {
  readonly Plans?: readonly Plan[];
  readonly 'Actual Rows': number;
  readonly 'Actual Loops': number;
  readonly 'Rows Removed by Filter'?: number;
}

/** Rows that scans returned or filtered out. */
function leavesOf(plan: Plan): number {
  if (plan.Plans !== undefined && plan.Plans.length > 0)
    return plan.Plans.reduce((sum, each) => sum + leavesOf(each), 0);
  return Math.round((plan['Actual Rows'] + (plan['Rows Removed by Filter'] ?? 0)) * plan['Actual Loops']);
}

function keep(table: string): void {
  const file = join(import.meta.dirname, 'RESULTS.md');
  const title = `## Reads of ${messages.toLocaleString('en')} messages`;
  const text = `${title}\n\n\`bench/explain.ts\`: one channel of ${hot}, one of ${warm}, the rest of 100 messages each; warm, not durable, on a machine with other work. (${new Date().toISOString().slice(0, 10)})\n\n${table}\n`;
  const sections = readFileSync(file, 'utf8').split(/^(?=## )/m);
  const others = sections.filter((section) => !section.startsWith('## Reads of '));
  writeFileSync(file, `${others.map((section) => section.trimEnd()).join('\n\n')}\n\n${text}`);
}
