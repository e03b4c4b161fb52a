/**
 * One question to several shards.
 *
 * `byShard` asks the shards of some channels, `overShards` all shards. A question to one shard is
 * one statement on a connection of the pool, as without shards. Several shards are asked on at most
 * `connectionsAtOnce` connections, on each without waiting for earlier answers.
 */
import { transactionOn, withConnection } from './connection.ts';
import type { Db, Tx } from './schema.ts';
import { onShard, type Shard, type ShardLayout, shardPoolOf } from './shards.ts';
import { all } from './sql.ts';

/** Connections that one question takes at most: the pool has more for other calls. */
const connectionsAtOnce = 3;

/** Runs `work` on each of these shards; returns the results in their order. */
export async function overShards<T>(tx: Tx, shards: readonly Shard[], work: ShardWork<Tx, T>): Promise<T[]>;
export async function overShards<T>(db: Db, shards: readonly Shard[], work: ShardWork<Db, T>): Promise<T[]>;
export async function overShards<T>(db: Db | Tx, shards: readonly Shard[], work: ShardWork<Tx, T>): Promise<T[]> {
  const [first] = shards;
  if (first === undefined) return [];
  if (shards.length === 1) return [await work(onShard(db as Tx, first), first)];
  const lanes: Shard[][] = [];
  const count = db.isTransaction ? 1 : Math.min(connectionsAtOnce, shards.length);
  for (let index = 0; index < count; index++) lanes.push(shards.filter((_, place) => place % count === index));
  const results = new Map<Shard, T>();
  const ask = async (lane: readonly Shard[]) =>
    await withConnection(shardPoolOf(db), async (connection) => {
      const on = db.isTransaction ? transactionOn(connection) : connection;
      await all(lane.map(async (shard) => results.set(shard, await work(onShard(on as Tx, shard), shard))));
    });
  await all(lanes.map(ask));
  return shards.map((shard) => results.get(shard) as T);
}

type ShardWork<On, T> = (on: On, shard: Shard) => Promise<T>;

/** Things that belong to channels. */
export interface OfChannels<Item> {
  readonly items: Iterable<Item>;
  readonly channelKeyOf: (item: Item) => number;
}

/**
 * Runs `work` on each shard that has some of these, with what belongs to it, in ascending order of
 * the shards.
 */
export async function byShard<I, T>(
  tx: Tx,
  layout: ShardLayout,
  of: OfChannels<I>,
  work: PartWork<Tx, I, T>,
): Promise<T[]>;
export async function byShard<I, T>(
  db: Db,
  layout: ShardLayout,
  of: OfChannels<I>,
  work: PartWork<Db, I, T>,
): Promise<T[]>;
export async function byShard<I, T>(
  db: Db | Tx,
  layout: ShardLayout,
  { items, channelKeyOf }: OfChannels<I>,
  work: PartWork<Tx, I, T>,
): Promise<T[]> {
  const groups = new Map(layout.group(items, channelKeyOf));
  return await overShards(db as Tx, [...groups.keys()], (on, shard) => work(on, groups.get(shard) ?? []));
}

type PartWork<On, Item, T> = (on: On, items: Item[]) => Promise<T>;

/** Reads something of each of these channels from their shards, by channel key. */
export async function mapByShard<T>(
  tx: Tx,
  layout: ShardLayout,
  channelKeys: Iterable<number>,
  read: PartWork<Tx, number, Map<number, T>>,
): Promise<Map<number, T>>;
export async function mapByShard<T>(
  db: Db,
  layout: ShardLayout,
  channelKeys: Iterable<number>,
  read: PartWork<Db, number, Map<number, T>>,
): Promise<Map<number, T>>;
export async function mapByShard<T>(
  db: Db | Tx,
  layout: ShardLayout,
  channelKeys: Iterable<number>,
  read: PartWork<Tx, number, Map<number, T>>,
): Promise<Map<number, T>> {
  const keys = { items: channelKeys, channelKeyOf: (channelKey: number) => channelKey };
  return merged(await byShard(db as Tx, layout, keys, read));
}

/** Adds the entries of all maps to the first one. */
export function merged<K, V>(maps: readonly Map<K, V>[]): Map<K, V> {
  const [first = new Map<K, V>(), ...others] = maps;
  for (const each of others) for (const [key, value] of each) first.set(key, value);
  return first;
}
