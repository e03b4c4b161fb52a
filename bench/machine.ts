import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import pg from 'pg';
import { pairId, personType } from '../src/messages/channel.ts';
import { startCluster } from '../test/support/cluster.ts';
import { migrateDatabase } from '../test/support/database.ts';
import { assertSound } from '../test/support/verify.ts';
import { startDebian } from './debian.ts';
import type { Server } from './server.ts';
import { channelCount, channelType, personSender, receiverOf } from './workload.ts';

/** The PostgreSQL of a bench run. */
export interface Machine {
  readonly url: string;
  readonly version: string;
  /** CPU seconds of the whole server so far: postmaster, backends, writers. */
  cpu(): number;
  /**
   * Removes all messages and the channels that a run created, sets all others to 0, and writes
   * everything to disk.
   */
  reset(): Promise<void>;
  /**
   * Throws unless exactly this many messages are stored. Unless they bypassed the service, each
   * must be stored once, and every channel dense.
   */
  verify(messages: number, bypassedService: boolean): Promise<void>;
  /** Number of stored messages. */
  count(): Promise<number>;
  /**
   * Fills the table with this many messages, the same number per channel, and advances
   * the heads. The rows are as if sent: `verify` finds no fault in them.
   */
  fill(messages: number): Promise<void>;
  /** Creates every channel, with the workload's sender as its only member. */
  addMembers(): Promise<void>;
  /** Creates the channels of `personSender` with the receivers of the workload. */
  addPersons(): Promise<void>;
  /** Runs a scenario's own statement. */
  query<Row>(text: string): Promise<Row[]>;
  /** Creates an empty database beside the service's; returns its URL. */
  createDatabase(name: string): Promise<string>;
  stop(): Promise<void>;
}

/**
 * Settings beside the product's own: buffers and WAL large enough that no checkpoint falls into a
 * run. Durability is PostgreSQL's default: fsync, full_page_writes and synchronous_commit are on.
 */
const settings = { shared_buffers: '1GB', max_wal_size: '8GB', max_connections: '300' };

/** Rows of a statement that fills the table. */
const fillRows = 1_000_000;
/** The sender of these rows. Their once-only keys are digests as in `dedupeKeyOf`. */
const filledUid = 'user-000000-0123456789abcdef0123';

/** Starts the embedded PostgreSQL in its own folder. */
export async function startMachine(): Promise<Machine> {
  return await prepare(await startCluster({ durable: true, settings }));
}

/** Starts Debian's PostgreSQL 15 with the same settings; undefined where it is not installed. */
export async function startDebianMachine(): Promise<Machine | undefined> {
  const server = await startDebian(settings);
  return server === undefined ? undefined : await prepare(server);
}

/** Creates the schema and all channels. */
async function prepare(cluster: Server): Promise<Machine> {
  const url = cluster.url('sendbatch');
  await migrateDatabase(url, 1);
  const admin = new pg.Client({ connectionString: url });
  await admin.connect();
  // Channel keys are 1 to n in the order of the ranks, so that the raw loader knows them.
  await admin.query(
    `insert into sendbatch.channel (channel_id, channel_type, sequence) select 'channel-' || rank, $1, 0 from generate_series(0, $2::int) as rank`,
    [channelType, channelCount - 1],
  );
  await admin.query('insert into sendbatch.channel_head (channel_key) select channel_key from sendbatch.channel');
  const lastKey = async () =>
    Number((await admin.query<{ max: string }>('select max(channel_key) from sendbatch.channel')).rows[0]?.max);
  let lastKnownKey = await lastKey();
  const { rows } = await admin.query<{ version: string }>(`select current_setting('server_version') as version`);
  const count = async () =>
    Number((await admin.query<{ count: string }>('select count(*) as count from sendbatch.message')).rows[0]?.count);
  return {
    url,
    count,
    version: rows[0]?.version ?? '',
    cpu: () => cpuOfTree(cluster.pid),
    async reset() {
      await admin.query('truncate sendbatch.message, sendbatch.message_change');
      if ((await lastKey()) > lastKnownKey)
        for (const name of ['channel', 'channel_head', 'channel_uid']) {
          await admin.query(`delete from sendbatch.${name} where channel_key > ${lastKnownKey}`);
          await admin.query(`vacuum analyze sendbatch.${name}`);
        }
      await admin.query('update sendbatch.channel_head set last_seq = 0, last_change = null where last_seq <> 0');
      await admin.query('vacuum analyze sendbatch.channel_head');
      await admin.query('checkpoint');
    },
    async verify(messages, bypassedService) {
      const stored = await count();
      if (stored !== messages) throw new Error(`${stored} messages are stored, not ${messages}`);
      if (!bypassedService) await assertSound(url);
    },
    async fill(messages) {
      // Drops the indexes and creates them afterwards: three minutes instead of an hour.
      await admin.query('alter table sendbatch.message drop constraint message_pkey, drop constraint message_once');
      let next = 0;
      const load = async () => {
        const client = new pg.Client({ connectionString: url });
        await client.connect();
        for (let from = next; from < messages; from = next) {
          next = Math.min(messages, from + fillRows);
          await client.query(`
            insert into sendbatch.message (channel_key, message_seq, message_id, accepted_at, dedupe_key, flags, content_hash, from_uid, client_msg_no, payload)
            select i % ${channelCount} + 1, i / ${channelCount} + 1, 4096 + i, 0, encode(substring(digest for 16), 'hex')::uuid, 2, digest,
              '${filledUid}', client_msg_no, decode(repeat('78', 100), 'hex')
            from (
              select i, client_msg_no, sha256(convert_to('["${filledUid}","' || client_msg_no || '"]', 'UTF8')) as digest
              from (select i, 'filled-' || lpad(i::text, 12, '0') || '-0123456789ab' as client_msg_no from generate_series(${from}, ${next - 1}) as i) named
              offset 0
            ) made`);
        }
        await client.end();
      };
      await Promise.all(Array.from({ length: availableParallelism() }, load));
      await admin.query(`set maintenance_work_mem = '2GB'`);
      await admin.query(`alter table sendbatch.message add constraint message_pkey primary key (channel_key, message_seq),
        add constraint message_once unique (channel_key, dedupe_key)`);
      await admin.query(`update sendbatch.channel_head set last_seq = ${Math.floor(messages / channelCount)}`);
      await admin.query(`select setval('sendbatch.message_block', ${Math.ceil(messages / 4096) + 2})`);
      await admin.query('vacuum analyze sendbatch.channel_head');
      await admin.query('vacuum analyze sendbatch.message');
      await admin.query('checkpoint');
    },
    async addMembers() {
      await admin.query(`
        insert into sendbatch.channel_info (channel_key, created_at, updated_at)
        select channel_key, 0, 0 from sendbatch.channel on conflict do nothing`);
      await admin.query(`
        insert into sendbatch.channel_uid (channel_key, uid, created_at, updated_at, member)
        select channel_key, 'user-' || lpad(((channel_key - 1) % 1000)::text, 6, '0') || '-0123456789abcdef0123', 0, 0, true
        from sendbatch.channel on conflict do nothing`);
      await admin.query('vacuum analyze sendbatch.channel_info');
      await admin.query('vacuum analyze sendbatch.channel_uid');
    },
    async addPersons() {
      const ids = Array.from({ length: channelCount }, (_, rank) => pairId(personSender, receiverOf(rank)));
      await admin.query(
        `with made as (
          insert into sendbatch.channel (channel_id, channel_type, sequence)
          select id, $2, 0 from unnest($1::text[]) as id on conflict do nothing returning channel_key, channel_id
        ), heads as (
          insert into sendbatch.channel_head (channel_key) select channel_key from made
        )
        insert into sendbatch.channel_uid (channel_key, uid, created_at, updated_at, member, joined_seq, joined_command_seq)
        select channel_key, uid, 0, 0, true, 0, 0 from made, string_to_table(channel_id, '@') as uid`,
        [ids, personType],
      );
      for (const name of ['channel', 'channel_head', 'channel_uid'])
        await admin.query(`vacuum analyze sendbatch.${name}`);
      lastKnownKey = await lastKey();
    },
    query: async <Row>(text: string) => (await admin.query(text)).rows as Row[],
    async createDatabase(name) {
      await admin.query(`create database ${name}`);
      return cluster.url(name);
    },
    async stop() {
      await admin.end();
      await cluster.stop();
    },
  };
}

const ticksPerSecond = 100;

/** User and system time of a process and its children, ended ones included. */
export function cpuOfTree(pid: number): number {
  const children = textOf(`/proc/${pid}/task/${pid}/children`).split(' ').filter(Boolean).map(Number);
  const fields = textOf(`/proc/${pid}/stat`).split(') ')[1]?.split(' ').slice(11, 15).map(Number) ?? [];
  const own = fields.reduce((sum, ticks) => sum + ticks, 0) / ticksPerSecond;
  return children.reduce((sum, child) => sum + cpuOfTree(child), own);
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
