import { sql } from 'kysely';
import { LRUCache } from 'lru-cache';
import { BinaryArray } from '../postgres/binary-array.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import { Statement } from '../postgres/sql.ts';
import { type Channel, channel, firstUids, messageSequence, tempType } from './channel.ts';

/**
 * Channel keys cached in memory: about 20 MB when full. A key never changes; a temporary channel
 * may be recreated under another.
 */
const cachedChannels = 100_000;
/**
 * Time until a reader finds a recreated temporary channel. A sender finds out at once, by the
 * missing head.
 */
const temporaryMs = 60_000;

/** A channel that was created, and its key. */
export interface CreatedChannel {
  readonly type: number;
  readonly id: string;
  readonly channelKey: number;
}

/** Finds the surrogate keys of channels. One per process and database. */
export class ChannelKeys {
  readonly #db: Db;
  readonly #cache = new LRUCache<string, number>({ max: cachedChannels });
  readonly #onMade: (made: readonly CreatedChannel[]) => void;
  readonly #now: () => number;

  /** `onMade` receives the channels of messages that this process created. */
  constructor(db: Db, onCreated: (made: readonly CreatedChannel[]) => void = () => {}, now: () => number = Date.now) {
    this.#db = db;
    this.#onMade = onCreated;
    this.#now = now;
  }

  /** Forgets keys of removed channels: they are looked up again. */
  forget(channelKeys: ReadonlySet<number>): void {
    for (const [text, key] of this.#cache) if (channelKeys.has(key)) this.#cache.delete(text);
  }

  /**
   * Finds the keys of existing channels, by channel key text. Channels without any send are absent.
   */
  async find(channels: readonly Channel[]): Promise<Map<string, number>> {
    const keys = new Map<string, number>();
    const missing: Channel[] = [];
    for (const channel of channels) {
      if (keys.has(channel.key)) continue;
      const key = this.#cache.get(channel.key);
      if (key === undefined) missing.push(channel);
      else keys.set(channel.key, key);
    }
    if (missing.length > 0) {
      for (const [found, key] of await select(this.#db, missing)) {
        this.#cache.set(found.key, key, found.type === tempType ? { ttl: temporaryMs } : undefined);
        keys.set(found.key, key);
      }
    }
    return keys;
  }

  /**
   * Finds the keys of all these channels, and creates the missing ones, each with its head. This
   * happens outside of the sending transaction, which then only updates heads: two of them never
   * wait for each other's inserts.
   */
  async findOrCreate(channels: readonly Channel[]): Promise<Map<string, number>> {
    const keys = await this.find(channels);
    const missing = channels.filter((channel) => !keys.has(channel.key));
    if (missing.length === 0) return keys;
    const created = await insert(this.#db, missing, this.#now());
    if (created.length > 0) this.#onMade(created);
    // Channels that another instance created at the same moment are invisible to the insert's
    // snapshot.
    const made = await this.find(missing);
    for (const [text, key] of made) keys.set(text, key);
    return keys;
  }
}

async function select(db: Db, channels: readonly Channel[]): Promise<[Channel, number][]> {
  const { rows } = await sql<{ ordinal: number; channel_key: number }>`
    select w.ordinal, c.channel_key
    from unnest(${ids(channels)}::text[], ${types(channels)}::smallint[], ${sequences(channels)}::smallint[])
      with ordinality as w(channel_id, channel_type, sequence, ordinal)
    cross join lateral (
      select c.channel_key from sendbatch.channel c
      where c.channel_id = w.channel_id and c.channel_type = w.channel_type and c.sequence = w.sequence
      limit 1
    ) c`.execute(db);
  return rows.map((row) => {
    const channel = channels[row.ordinal - 1];
    if (channel === undefined) throw new Error(`ordinal ${row.ordinal} of ${channels.length}`);
    return [channel, row.channel_key];
  });
}

/**
 * Creates channels in sorted order, so that two instances that create the same ones cannot
 * deadlock. A channel of commands is created with the channel it belongs to, whose key the members
 * refer to.
 */
async function insert(db: Db, channels: readonly Channel[], now: number): Promise<CreatedChannel[]> {
  const all = new Map(channels.map((each) => [each.key, each]));
  for (const each of channels) {
    const base = channel(each.type, each.id, messageSequence);
    if (!all.has(base.key)) all.set(base.key, { ...base, ...(each.uids === undefined ? {} : { uids: each.uids }) });
  }
  const wanted = [...all.values()];
  const members = wanted.flatMap((each) =>
    each.sequence === messageSequence ? firstUids(each).map((uid) => ({ id: each.id, type: each.type, uid })) : [],
  );
  const { rows } = await sql<{ channel_key: number; channel_id: string; channel_type: number }>`
    with made as (
      insert into sendbatch.channel (channel_id, channel_type, sequence)
      select channel_id, channel_type, sequence
      from unnest(${ids(wanted)}::text[], ${types(wanted)}::smallint[], ${sequences(wanted)}::smallint[])
        as w(channel_id, channel_type, sequence)
      order by channel_id collate "C", channel_type, sequence
      on conflict do nothing
      returning channel_key, channel_id, channel_type, sequence
    ), members as (
      insert into sendbatch.channel_uid (channel_key, uid, created_at, updated_at, member, joined_seq, joined_command_seq)
      select m.channel_key, w.uid, ${now}::bigint, ${now}::bigint, true, 0, 0
      from unnest(${members.map((each) => each.id)}::text[], ${members.map((each) => each.type)}::smallint[], ${members.map((each) => each.uid)}::text[])
        as w(channel_id, channel_type, uid)
      join made m on m.channel_id = w.channel_id and m.channel_type = w.channel_type and m.sequence = 0
      on conflict do nothing
    ), heads as (
      insert into sendbatch.channel_head (channel_key) select channel_key from made
    )
    select channel_key, channel_id, channel_type from made where sequence = ${messageSequence}`.execute(db);
  return rows.map((row) => ({ type: row.channel_type, id: row.channel_id, channelKey: row.channel_key }));
}

const ids = (channels: readonly Channel[]) => channels.map((channel) => channel.id);
const types = (channels: readonly Channel[]) => channels.map((channel) => channel.type);
const sequences = (channels: readonly Channel[]) => channels.map((channel) => channel.sequence);

/**
 * Locks the heads of these channels until the transaction ends, and returns their last sequences by
 * channel key.
 *
 * This is the row lock that numbers messages. Lock order: every transaction locks heads by
 * ascending channel_key, so that batches cannot deadlock one another. The optimistic append takes
 * the same locks by its UPDATE (messages.sql.ts).
 */
export async function lockHeads(tx: Tx, channelKeys: readonly number[]): Promise<Map<number, number>> {
  const { rows } = await sql<{ channel_key: number; last_seq: number }>`
    select channel_key, last_seq from sendbatch.channel_head
    where channel_key = any(${channelKeys}::bigint[])
    order by channel_key
    for no key update`.execute(tx);
  const heads = new Map(rows.map((row) => [row.channel_key, row.last_seq]));
  if (heads.size !== channelKeys.length) throw new HeadsMissing(channelKeys.filter((key) => !heads.has(key)));
  return heads;
}

/** Channels were removed after their keys were looked up. */
export class HeadsMissing extends Error {
  readonly channelKeys: ReadonlySet<number>;

  constructor(channelKeys: readonly number[]) {
    super(`the heads of channels ${channelKeys.slice(0, 10).join(', ')} are missing`);
    this.channelKeys = new Set(channelKeys);
  }
}

/** Locks the heads that no other session has locked; the others are absent from the result. */
export async function lockHeadsSkipLocked(tx: Tx, channelKeys: readonly number[]): Promise<Map<number, number>> {
  const { rows } = await sql<{ channel_key: number; last_seq: number }>`
    select channel_key, last_seq from sendbatch.channel_head
    where channel_key = any(${channelKeys}::bigint[])
    order by channel_key
    for no key update skip locked`.execute(tx);
  return new Map(rows.map((row) => [row.channel_key, row.last_seq]));
}

/**
 * Checks whether these heads could be locked now, and reads their last sequences. Waits for no lock
 * and keeps none.
 */
export async function probeHeads(
  db: Db,
  channelKeys: readonly number[],
): Promise<Map<number, { isFree: boolean; lastSeq: number }>> {
  const { rows } = await sql<{ channel_key: number; last_seq: number; is_free: boolean }>`
    with free as (
      select channel_key from sendbatch.channel_head
      where channel_key = any(${channelKeys}::bigint[])
      order by channel_key
      for no key update skip locked
    )
    select h.channel_key, h.last_seq, free.channel_key is not null as is_free
    from sendbatch.channel_head h left join free on free.channel_key = h.channel_key
    where h.channel_key = any(${channelKeys}::bigint[])`.execute(db);
  return new Map(rows.map((row) => [row.channel_key, { isFree: row.is_free, lastSeq: row.last_seq }]));
}

/** A channel and the new value of its head. */
export interface HeadChange {
  readonly channelKey: number;
  readonly value: number;
}

const setStatement = new Statement<never>({
  name: 'set heads',
  text: `
    update sendbatch.channel_head h set last_seq = w.last_seq, last_at = greatest(h.last_at, $3::bigint)
    from unnest($1::bigint[], $2::bigint[]) as w(channel_key, last_seq)
    where h.channel_key = w.channel_key`,
});

/**
 * Advances the heads of locked channels. `acceptedAt`: the time of the messages that advance them.
 */
export async function setHeads(tx: Tx, heads: readonly HeadChange[], acceptedAt: number): Promise<void> {
  const keys = new BinaryArray('bigint', heads.length * 12);
  const values = new BinaryArray('bigint', heads.length * 12);
  for (const { channelKey, value } of heads) {
    keys.bigint(channelKey);
    values.bigint(value);
  }
  await setStatement.run(tx, [keys.value(), values.value(), acceptedAt]);
}

/** Reads the committed last sequences of these channels, without locks. */
export async function readHeads(db: Db, channelKeys: readonly number[]): Promise<Map<number, number>> {
  const { rows } = await sql<{ channel_key: number; last_seq: number }>`
    select channel_key, last_seq from sendbatch.channel_head where channel_key = any(${channelKeys}::bigint[])`.execute(
    db,
  );
  return new Map(rows.map((row) => [row.channel_key, row.last_seq]));
}

/** The last sequence of a channel, and the first that is kept: one above the last when none is. */
export interface Heads {
  readonly lastSeq: number;
  readonly firstSeq: number;
}

/** The heads of a channel without messages. */
export const noHeads: Heads = { lastSeq: 0, firstSeq: 1 };

export async function readHeadsAndFirst(db: Db, channelKey: number): Promise<Heads> {
  return (await readManyHeadsAndFirst(db, [channelKey])).get(channelKey) ?? noHeads;
}

const headsStatement = new Statement<{ channel_key: number; last_seq: number; first_seq: number | null }>({
  name: 'heads and first',
  text: `
    select h.channel_key, h.last_seq, (
      select m.message_seq from sendbatch.message m where m.channel_key = h.channel_key order by m.message_seq limit 1
    ) as first_seq
    from sendbatch.channel_head h where h.channel_key = any($1::bigint[])`,
});

/** Reads the heads of many channels, by key. */
export async function readManyHeadsAndFirst(db: Db, channelKeys: readonly number[]): Promise<Map<number, Heads>> {
  if (channelKeys.length === 0) return new Map();
  const rows = await headsStatement.run(db, [[...channelKeys]]);
  return new Map(
    rows.map((row) => [row.channel_key, { lastSeq: row.last_seq, firstSeq: row.first_seq ?? row.last_seq + 1 }]),
  );
}
