// Shards: how the tables of channels are divided among schemas (docs/internals/sharding.md).
//
// - `ShardLayout`: the number of shards, and the shard of a channel or message.
// - `onShard`: the database, or a transaction in it, whose statements name a shard's tables.
// - `routeShards`: sends statements on one shard to another node than the rest.
//
// SQL is written for one shard: `sendbatch.message`. On a database with several shards `onShard`
// replaces the schema of tables that belong to channels, so that no statement names the tables of
// two shards. Other tables stay in `sendbatch`; a statement on a shard must not name them. With one
// shard its schema is `sendbatch`, and `onShard` returns its argument.

import {
  CompiledQuery,
  Kysely,
  type KyselyPlugin,
  type QueryExecutor,
  type QueryId,
  type QueryResult,
  type RootOperationNode,
  Transaction,
} from 'kysely';
import { LRUCache } from 'lru-cache';
import { limits } from '../limits.ts';
import { propsOf } from './connection.ts';
import type { Db } from './schema.ts';
import { Execution, Statement } from './sql.ts';

/** The schema of a database with one shard, and of all tables that belong to no channel. */
export const mainSchema = 'sendbatch';

/**
 * Tables that belong to channels: each shard has them. With one shard a sequence takes the place of
 * `id_block`.
 */
export const shardTables = [
  'message',
  'message_change',
  'message_copy',
  'channel_head',
  'channel_info',
  'channel_uid',
  'flagged_message',
  'swept',
  'webhook_outbox',
  'id_block',
] as const;

/** A shard: a schema with the tables of its channels. */
export interface Shard {
  readonly index: number;
  readonly schema: string;
}

/** How many shards a database has, and what belongs to which. Never changes while it is in use. */
export class ShardLayout {
  readonly count: number;
  /** All shards, by index. */
  readonly all: readonly Shard[];

  /** `count`: a power of two. */
  constructor(count: number) {
    this.count = count;
    this.all = Array.from({ length: count }, (_, index) => ({ index, schema: schemaOf(index, count) }));
  }

  /** The shard of a channel. */
  of(channelKey: number): Shard {
    return this.all[channelKey % this.count] as Shard;
  }

  /** The shard of a message, which its id tells: block numbers are congruent to the shard. */
  ofMessage(messageId: number): Shard {
    return this.of(Math.floor(messageId / limits.idsPerBlock));
  }

  /** Groups what belongs to channels by shard, in ascending order of the shards that have any. */
  group<T>(items: Iterable<T>, channelKeyOf: (item: T) => number): [Shard, T[]][] {
    if (this.count === 1) {
      const all: T[] = Array.isArray(items) ? items : [...items];
      return all.length === 0 ? [] : [[this.all[0] as Shard, all]];
    }
    const groups = new Map<number, T[]>();
    for (const item of items) {
      const { index } = this.of(channelKeyOf(item));
      const group = groups.get(index);
      if (group === undefined) groups.set(index, [item]);
      else group.push(item);
    }
    return [...groups].sort(([a], [b]) => a - b).map(([index, group]) => [this.all[index] as Shard, group]);
  }
}

/** The layout of a database that is not divided. */
export const oneShard = new ShardLayout(1);

function schemaOf(index: number, count: number): string {
  return count === 1 ? mainSchema : `${mainSchema}_${String(index).padStart(3, '0')}`;
}

/** Pools for statements on one shard, by the pool for everything else. */
// biome-ignore lint/suspicious/noExplicitAny: migrations know no tables
const shardPools = new WeakMap<Kysely<any>, Kysely<any>>();

/**
 * Sends what `onShard` gets of a pool through another pool: on Citus any node takes statements on
 * one shard, and only the coordinator has the other tables. Connections and transactions of `db`
 * keep all of theirs.
 */
export function routeShards(db: Db, shardPool: Db): void {
  shardPools.set(db, shardPool);
}

/** The pool that takes the statements on shards; `db` itself unless `routeShards` named another. */
// biome-ignore lint/suspicious/noExplicitAny: migrations know no tables
export function shardPoolOf<D extends Kysely<any>>(db: D): D {
  return (shardPools.get(db) as D | undefined) ?? db;
}

/**
 * The database whose statements name the tables of this shard. Works for pools, single connections
 * and transactions, and for transactions that are begun on the result.
 */
// biome-ignore lint/suspicious/noExplicitAny: migrations know no tables
export function onShard<D extends Kysely<any>>(db: D, shard: Shard): D {
  if (shard.schema === mainSchema) return db;
  const props = propsOf(new ShardExecutor(shardPoolOf(db).getExecutor(), shard));
  return (db.isTransaction ? new Transaction(props) : new Kysely(props)) as D;
}

/** The name of a shard's table in SQL text, with or without quotes. */
const shardTable = new RegExp(`\\b${mainSchema}(?="?\\."?(?:${shardTables.join('|')})\\b)`);
/** Texts cut where a shard's schema stands. */
const cutTexts = new LRUCache<string, readonly string[]>({ max: 2000 });

/** SQL text with the schema of a shard. */
export function textOnShard(text: string, { schema }: Shard): string {
  let parts = cutTexts.get(text);
  if (parts === undefined) {
    parts = text.split(shardTable);
    cutTexts.set(text, parts);
  }
  return parts.join(schema);
}

/** Prepared statements by shard. */
const preparedOnShard = new WeakMap<Statement<unknown>, Statement<unknown>[]>();

function statementOnShard(statement: Statement<unknown>, shard: Shard): Statement<unknown> {
  let prepared = preparedOnShard.get(statement);
  if (prepared === undefined) {
    prepared = [];
    preparedOnShard.set(statement, prepared);
  }
  prepared[shard.index] ??= new Statement({
    ...statement,
    name: `${statement.name} @${shard.index}`,
    text: textOnShard(statement.text, shard),
  });
  return prepared[shard.index] as Statement<unknown>;
}

function queryOnShard<R>(query: CompiledQuery<R>, shard: Shard): CompiledQuery<R> {
  const [execution] = query.parameters;
  if (!(execution instanceof Execution)) return { ...query, sql: textOnShard(query.sql, shard) };
  const statement = statementOnShard(execution.statement, shard);
  return CompiledQuery.raw(statement.text, [new Execution(statement, execution.values)]) as CompiledQuery<R>;
}

/** Kysely's executor, with the schema of a shard in what it executes. */
class ShardExecutor implements QueryExecutor {
  readonly #executor: QueryExecutor;
  readonly #shard: Shard;

  constructor(executor: QueryExecutor, shard: Shard) {
    this.#executor = executor;
    this.#shard = shard;
  }

  executeQuery<R>(query: CompiledQuery<R>, options?: Parameters<QueryExecutor['executeQuery']>[1]) {
    return this.#executor.executeQuery(queryOnShard(query, this.#shard), options);
  }

  stream<R>(
    query: CompiledQuery<R>,
    chunkSize: number,
    options?: Parameters<QueryExecutor['stream']>[2],
  ): AsyncIterableIterator<QueryResult<R>> {
    return this.#executor.stream(queryOnShard(query, this.#shard), chunkSize, options);
  }

  get adapter() {
    return this.#executor.adapter;
  }

  get plugins() {
    return this.#executor.plugins;
  }

  transformQuery<T extends RootOperationNode>(node: T, queryId: QueryId): T {
    return this.#executor.transformQuery(node, queryId);
  }

  compileQuery<R = unknown>(node: RootOperationNode, queryId: QueryId): CompiledQuery<R> {
    return this.#executor.compileQuery(node, queryId);
  }

  provideConnection: QueryExecutor['provideConnection'] = (consumer, options) =>
    this.#executor.provideConnection(consumer, options);

  withConnectionProvider(provider: Parameters<QueryExecutor['withConnectionProvider']>[0]): QueryExecutor {
    return new ShardExecutor(this.#executor.withConnectionProvider(provider), this.#shard);
  }

  withPlugin(plugin: KyselyPlugin): QueryExecutor {
    return new ShardExecutor(this.#executor.withPlugin(plugin), this.#shard);
  }

  withPlugins(plugins: readonly KyselyPlugin[]): QueryExecutor {
    return new ShardExecutor(this.#executor.withPlugins(plugins), this.#shard);
  }

  withPluginAtFront(plugin: KyselyPlugin): QueryExecutor {
    return new ShardExecutor(this.#executor.withPluginAtFront(plugin), this.#shard);
  }

  withoutPlugins(): QueryExecutor {
    return new ShardExecutor(this.#executor.withoutPlugins(), this.#shard);
  }
}
