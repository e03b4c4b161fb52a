/**
 * The surrogate keys of channels: finds them by name and the names by key, caches both, and creates
 * the channels that do not exist, each with its head and first members.
 *
 * - `ChannelKeys`: what one process knows of one database.
 * - `nameValues`, `memberValues`, `withBases`: parameters of statements that create channels, here
 *   and in sending/optimistic-append.sql.ts.
 *
 * A key never changes and is never used again. The heads of channels: channel-heads.sql.ts.
 */
import { sql } from 'kysely';
import { LRUCache } from 'lru-cache';
import { BinaryArray, bigintArray } from '../postgres/binary-array.ts';
import { byShard } from '../postgres/over-shards.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import { oneShard, type ShardLayout } from '../postgres/shards.ts';
import { Statement } from '../postgres/sql.ts';
import { type Channel, channel, firstUids, messageSequence, type Sequence, tempType } from './channel.ts';

/**
 * Channel keys cached in memory: about 20 MB when full. A key never changes; a temporary channel
 * may be recreated under another.
 */
const cachedChannels = 100_000;
/** Names of channels cached in memory, by key: about 15 MB when full. */
const cachedNames = 50_000;
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

export interface ChannelKeysOptions {
  readonly shards?: ShardLayout;
  /** Receives the channels of messages that this process created. */
  readonly onCreated?: (created: readonly CreatedChannel[]) => void;
  /** Milliseconds since 1970. */
  readonly now?: () => number;
}

/** What reads of channels need: the database, its shards, and the keys of channels. */
export interface ChannelStore {
  readonly db: Db;
  readonly shards: ShardLayout;
  readonly channelKeys: ChannelKeys;
}

/** Finds the surrogate keys of channels. One per process and database. */
export class ChannelKeys {
  readonly #db: Db;
  readonly #shards: ShardLayout;
  readonly #cache = new LRUCache<string, number>({ max: cachedChannels });
  /** A key is never used again for another channel. */
  readonly #names = new LRUCache<number, Channel>({ max: cachedNames });
  /** Attempts of this process to create channels, by channel key text. */
  readonly #creating = new Map<string, Promise<unknown>>();
  /** With several shards: the creation under way or the last one, and the one that comes next. */
  #lastCreation: Promise<void> = Promise.resolve();
  #nextCreation: { readonly wanted: Map<string, Channel>; readonly done: Promise<void> } | undefined;
  readonly #onCreated: (created: readonly CreatedChannel[]) => void;
  readonly #now: () => number;

  constructor(db: Db, { shards = oneShard, onCreated = () => {}, now = Date.now }: ChannelKeysOptions = {}) {
    this.#db = db;
    this.#shards = shards;
    this.#onCreated = onCreated;
    this.#now = now;
  }

  /** Forgets keys of removed channels: they are looked up again. */
  forget(channelKeys: ReadonlySet<number>): void {
    for (const [text, key] of this.#cache) if (channelKeys.has(key)) this.#cache.delete(text);
  }

  /**
   * Finds the keys of existing channels, by channel key text. Channels without any send are absent.
   */
  async find(channels: Iterable<Channel>): Promise<Map<string, number>> {
    const keys = new Map<string, number>();
    const missing = new Map<string, Channel>();
    for (const channel of channels) {
      if (keys.has(channel.key)) continue;
      const key = this.#cache.get(channel.key);
      if (key === undefined) missing.set(channel.key, channel);
      else keys.set(channel.key, key);
    }
    if (missing.size > 0)
      for (const [channel, key] of await select(this.#db, [...missing.values()])) {
        this.#remember(channel, key);
        keys.set(channel.key, key);
      }
    return keys;
  }

  /** Finds the channels of these keys. Those that were removed may be absent. */
  async names(channelKeys: Iterable<number>): Promise<Map<number, Channel>> {
    const names = new Map<number, Channel>();
    const missing: number[] = [];
    for (const channelKey of channelKeys) {
      const name = this.#names.get(channelKey);
      if (name === undefined) missing.push(channelKey);
      else names.set(channelKey, name);
    }
    if (missing.length === 0) return names;
    for (const [channelKey, name] of await readNames(this.#db, missing)) {
      this.#names.set(channelKey, name);
      names.set(channelKey, name);
    }
    return names;
  }

  /**
   * Finds the keys of all these channels, and creates the missing ones, each with its head, in a
   * transaction of its own. `found`: the result of `find` if it was called before.
   */
  async findOrCreate(channels: readonly Channel[], found?: ReadonlyMap<string, number>): Promise<Map<string, number>> {
    const keys = new Map<string, number>();
    const known = found ?? (await this.find(channels));
    const missing: Channel[] = [];
    for (const each of channels) {
      const key = known.get(each.key);
      if (key === undefined) missing.push(each);
      else keys.set(each.key, key);
    }
    if (missing.length === 0) return keys;
    if (this.#shards.count === 1) this.created(await insert(this.#db, missing, this.#now()));
    else await this.#createTogether(missing);
    // Those that another instance created at the same moment are invisible to the insert's
    // snapshot.
    for (const [text, key] of await this.find(missing)) keys.set(text, key);
    return keys;
  }

  /**
   * Creates channels in several shards. Calls that come while channels are created share the next
   * transactions: one for the names, and one per shard.
   */
  async #createTogether(channels: readonly Channel[]): Promise<void> {
    let next = this.#nextCreation;
    if (next === undefined) {
      const wanted = new Map<string, Channel>();
      const begin = async () => {
        this.#nextCreation = undefined;
        await this.#create([...wanted.values()]);
      };
      next = { wanted, done: this.#lastCreation.then(begin, begin) };
      this.#nextCreation = next;
      this.#lastCreation = next.done;
    }
    for (const each of channels) next.wanted.set(each.key, each);
    await next.done;
  }

  async #create(channels: readonly Channel[]): Promise<void> {
    // The key names the shard. Were the process killed in between, the next send would add the
    // head (`addMissingHeads`).
    const created = await insertNames(this.#db, channels);
    await this.#addHeads(this.#db, [...created]);
    this.created(created);
  }

  async #addHeads(db: Db | Tx, channels: readonly (readonly [Channel, number])[]): Promise<void> {
    const items = { items: channels, channelKeyOf: ([, channelKey]: readonly [Channel, number]) => channelKey };
    const now = this.#now();
    await byShard(db, this.#shards, items, (shard, each) => insertHeads(shard, each, now));
  }

  /**
   * Adds the heads and members that these channels lack although their names exist: with several
   * shards a creation is two transactions. A channel that is being removed stays without them.
   */
  async addMissingHeads(channels: readonly Channel[]): Promise<void> {
    if (this.#shards.count === 1) return;
    await this.#db.transaction().execute(async (tx) => this.#addHeads(tx, await lockNames(tx, withBases(channels))));
  }

  /**
   * As `find`, after this process has ended its attempts to create the missing ones. A group that
   * is sent behind the one that creates its channel would otherwise create it too, and fail.
   */
  async findSettled(channels: readonly Channel[]): Promise<Map<string, number>> {
    for (;;) {
      const keys = await this.find(channels);
      const attempts = new Set<Promise<unknown>>();
      for (const { key: text } of channels) {
        if (keys.has(text)) continue;
        // Created while the look-up was under way?
        const key = this.#cache.get(text);
        const attempt = this.#creating.get(text);
        if (key !== undefined) keys.set(text, key);
        else if (attempt !== undefined) attempts.add(attempt);
      }
      if (attempts.size === 0) return keys;
      await Promise.allSettled(attempts);
    }
  }

  /** Runs an attempt to create channels: `findSettled` waits for it. */
  async whileCreating<T>(channels: readonly Channel[], attempt: () => Promise<T>): Promise<T> {
    if (channels.length === 0) return await attempt();
    const attempted = attempt();
    for (const { key } of channels) this.#creating.set(key, attempted);
    try {
      return await attempted;
    } finally {
      for (const { key } of channels) if (this.#creating.get(key) === attempted) this.#creating.delete(key);
    }
  }

  /** Remembers and publishes channels that this process has created, after the commit. */
  created(created: ReadonlyMap<Channel, number>): void {
    const published: CreatedChannel[] = [];
    for (const [channel, channelKey] of created) {
      this.#remember(channel, channelKey);
      if (channel.sequence === messageSequence) published.push({ type: channel.type, id: channel.id, channelKey });
    }
    if (published.length > 0) this.#onCreated(published);
  }

  #remember({ key, type }: Channel, channelKey: number): void {
    this.#cache.set(key, channelKey, type === tempType ? { ttl: temporaryMs } : undefined);
  }
}

const selectStatement = new Statement<{ readonly ordinal: number; readonly channel_key: number }>({
  name: 'find channels',
  byKey: true,
  text: `
    select w.ordinal, c.channel_key
    from unnest($1::text[], $2::smallint[], $3::smallint[]) with ordinality as w(channel_id, channel_type, sequence, ordinal)
    cross join lateral (
      select c.channel_key from sendbatch.channel c
      where c.channel_id = w.channel_id and c.channel_type = w.channel_type and c.sequence = w.sequence
      limit 1
    ) c`,
});

interface NameRow {
  readonly channel_key: number;
  readonly channel_type: number;
  readonly sequence: Sequence;
  readonly channel_id: string;
}

const namesStatement = new Statement<NameRow>({
  name: 'name channels',
  byKey: true,
  text: `
    select c.channel_key, c.channel_type, c.sequence, c.channel_id
    from unnest($1::bigint[]) as w(channel_key)
    cross join lateral (select * from sendbatch.channel c where c.channel_key = w.channel_key limit 1) c`,
});

/** Reads the channels of these keys. Those that were removed are absent. */
export async function readNames(db: Db, channelKeys: readonly number[]): Promise<Map<number, Channel>> {
  if (channelKeys.length === 0) return new Map();
  const rows = await namesStatement.run(db, [bigintArray(channelKeys)]);
  return new Map(rows.map((row) => [row.channel_key, channel(row.channel_type, row.channel_id, row.sequence)]));
}

async function select(db: Db | Tx, channels: readonly Channel[]): Promise<[Channel, number][]> {
  const rows = await selectStatement.run(db, nameValues(channels));
  return rows.map((row) => [at(channels, row.ordinal), row.channel_key]);
}

interface CreatedRow {
  /** The channel's number among those wanted, from 1. */
  readonly ordinal: number;
  readonly channel_key: number;
}

/** SQL steps `wanted` and `made`: creates the names of those of these channels that have none. */
function madeNames(wanted: readonly Channel[]) {
  const [ids, types, sequences] = nameValues(wanted);
  return sql`wanted as materialized (
      select * from unnest(${ids}::text[], ${types}::smallint[], ${sequences}::smallint[])
        with ordinality as w(channel_id, channel_type, sequence, ordinal)
    ), made as (
      insert into sendbatch.channel (channel_id, channel_type, sequence)
      select channel_id, channel_type, sequence from wanted
      order by channel_id collate "C", channel_type, sequence
      on conflict do nothing
      returning channel_key, channel_id, channel_type, sequence
    )`;
}

const selectMade = sql`
      select w.ordinal, m.channel_key from made m join wanted w using (channel_id, channel_type, sequence)`;

/**
 * Creates those of these channels that do not exist, and returns their keys. In sorted order, so
 * that two instances that create the same ones cannot deadlock. Planned anew each time: its joins
 * need the number of channels.
 */
async function insert(db: Db, channels: readonly Channel[], now: number): Promise<Map<Channel, number>> {
  const wanted = withBases(channels);
  const [memberOf, uids] = memberValues(wanted);
  const { rows } = await sql<CreatedRow>`
    with ${madeNames(wanted)}, created as materialized (
      ${selectMade}
    ), members as (
      insert into sendbatch.channel_uid (channel_key, uid, created_at, updated_at, member, joined_seq, joined_command_seq)
      select c.channel_key, w.uid, ${now}::bigint, ${now}::bigint, true, 0, 0
      from unnest(${memberOf}::integer[], ${uids}::text[]) as w(ordinal, uid) join created c using (ordinal)
      on conflict do nothing
    ), heads as (
      insert into sendbatch.channel_head (channel_key) select channel_key from created
    )
    select ordinal, channel_key from created`.execute(db);
  return new Map(rows.map((row) => [at(wanted, row.ordinal), row.channel_key]));
}

/** Creates the names of those of these channels that have none, and returns their keys. */
async function insertNames(db: Db, channels: readonly Channel[]): Promise<Map<Channel, number>> {
  const wanted = withBases(channels);
  const { rows } = await sql<CreatedRow>`with ${madeNames(wanted)} ${selectMade}`.execute(db);
  return new Map(rows.map((row) => [at(wanted, row.ordinal), row.channel_key]));
}

/**
 * Locks the names of channels against removal, and returns those that exist. A removal locks a name
 * before the head.
 */
async function lockNames(tx: Tx, channels: readonly Channel[]): Promise<[Channel, number][]> {
  const found = new Map(await select(tx, channels));
  const { rows } = await sql<{ channel_key: number }>`
    select channel_key from sendbatch.channel where channel_key = any(${[...found.values()]}::bigint[])
    order by channel_key
    for key share`.execute(tx);
  const locked = new Set(rows.map((row) => row.channel_key));
  return [...found].filter(([, channelKey]) => locked.has(channelKey));
}

const addHeadsStatement = new Statement<never>({
  name: 'add heads',
  text: `
    with members as (
      insert into sendbatch.channel_uid (channel_key, uid, created_at, updated_at, member, joined_seq, joined_command_seq)
      select ($1::bigint[])[w.ordinal], w.uid, $4::bigint, $4::bigint, true, 0, 0
      from unnest($2::integer[], $3::text[]) as w(ordinal, uid)
      on conflict do nothing
    )
    insert into sendbatch.channel_head (channel_key) select unnest($1::bigint[]) on conflict do nothing`,
});

/** Adds the heads and first members of channels of one shard, where they are missing. */
async function insertHeads(db: Db, channels: readonly (readonly [Channel, number])[], now: number): Promise<void> {
  const members = memberValues(channels.map(([each]) => each));
  await addHeadsStatement.run(db, [bigintArray(channels.map(([, channelKey]) => channelKey)), ...members, now]);
}

/**
 * Adds the channels that channels of commands belong to, whose keys the members refer to: they are
 * created together.
 */
export function withBases(channels: readonly Channel[]): Channel[] {
  const all = new Map(channels.map((each) => [each.key, each]));
  for (const { type, id, sequence, uids } of channels) {
    if (sequence === messageSequence) continue;
    const base = channel(type, id, messageSequence);
    if (!all.has(base.key)) all.set(base.key, uids === undefined ? base : { ...base, uids });
  }
  return [...all.values()];
}

/** Three array parameters: the ids, types and sequences of channels. */
export function nameValues(channels: readonly Channel[]): (Buffer | null)[] {
  const ids = new BinaryArray('text', channels.length * 40);
  const types = new BinaryArray('smallint', channels.length * 6);
  const sequences = new BinaryArray('smallint', channels.length * 6);
  for (const { id, type, sequence } of channels) {
    ids.text(id);
    types.smallint(type);
    sequences.smallint(sequence);
  }
  return [ids.value(), types.value(), sequences.value()];
}

/**
 * Two array parameters: the first members of channels, as the ordinal of the channel, from 1, and
 * the uid.
 */
export function memberValues(channels: readonly Channel[]): (Buffer | null)[] {
  const ordinals = new BinaryArray('integer', channels.length * 16);
  const uids = new BinaryArray('text', channels.length * 48);
  for (const [index, each] of channels.entries()) {
    if (each.sequence !== messageSequence) continue;
    for (const uid of firstUids(each)) {
      ordinals.integer(index + 1);
      uids.text(uid);
    }
  }
  return [ordinals.value(), uids.value()];
}

function at(channels: readonly Channel[], ordinal: number): Channel {
  const found = channels[ordinal - 1];
  if (found === undefined) throw new Error(`ordinal ${ordinal} of ${channels.length}`);
  return found;
}
