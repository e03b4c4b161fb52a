import { sql } from 'kysely';
import { citusCluster } from './citus.ts';
import type { Db } from './schema.ts';
import { readSplit } from './shard-split.ts';
import { mainSchema, ShardLayout, shardTables } from './shards.ts';

/** A shard, as an operator sees it. */
export interface ShardStatus {
  readonly schema: string;
  /** The node of Citus; empty elsewhere. */
  readonly node: string;
  readonly bytes: number;
  readonly messages: number;
  readonly channels: number;
}

/** The number of shards, what they hold, and the split under way. */
export async function listShards(db: Db): Promise<{
  readonly shards: readonly ShardStatus[];
  readonly split: { readonly to: number; readonly step: string } | undefined;
}> {
  const layout = await db.selectFrom('sendbatch.shard_layout').selectAll().executeTakeFirst();
  const split = await readSplit(db);
  const isCitus = (await citusCluster(db)) !== undefined;
  const shards: ShardStatus[] = [];
  for (const { schema } of new ShardLayout(layout?.shards ?? 1).all) {
    // With one shard all tables are the coordinator's own.
    const isDistributed = isCitus && schema !== mainSchema;
    const size = sql.raw(isDistributed ? 'citus_total_relation_size' : 'pg_total_relation_size');
    const tables = shardTables.filter((table) => table !== 'id_block' || schema !== mainSchema);
    const sizes = sql.join(
      tables.map((table) => sql`${size}(${`${schema}.${table}`}::regclass)`),
      sql` + `,
    );
    const { rows } = await sql<{ bytes: number; messages: number; channels: number }>`
      select ${sizes} as bytes,
        greatest(0, (select coalesce(sum(last_seq), 0) from ${sql.id(schema, 'channel_head')})
          - (select coalesce(sum(messages), 0) from ${sql.id(schema, 'swept')}))::bigint as messages,
        (select count(*) from ${sql.id(schema, 'channel_head')}) as channels`.execute(db);
    const [row = { bytes: 0, messages: 0, channels: 0 }] = rows;
    shards.push({ schema, node: isDistributed ? await nodeOf(db, schema) : '', ...row });
  }
  return { shards, split: split && { to: split.after.count, step: split.step } };
}

async function nodeOf(db: Db, schema: string): Promise<string> {
  const { rows } = await sql<{ node: string }>`
    select nodename || ':' || nodeport as node from citus_shards
    where table_name = ${`${schema}.message`}::regclass limit 1`.execute(db);
  return rows[0]?.node ?? '';
}
