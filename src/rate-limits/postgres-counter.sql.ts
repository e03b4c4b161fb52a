import { hash } from 'node:crypto';
import { sql } from 'kysely';
import pg from 'pg';
import { PreparingClient } from '../postgres/client.ts';
import { watched } from '../postgres/pool.ts';
import type { Db } from '../postgres/schema.ts';
import { databaseNow } from '../postgres/sql.ts';

/** At most `points` per `seconds`. */
export interface Quota {
  readonly points: number;
  readonly seconds: number;
}

/** What a `take` got of a quota. */
export interface Taken {
  /** Points granted; the rest of the request is over the quota. */
  readonly taken: number;
  readonly remaining: number;
  /** Milliseconds until the window ends. */
  readonly resetMs: number;
}

/** Counts by key, in windows of fixed length that start with the first count. */
export interface Counter {
  readonly quota: Quota;
  take(key: string, count: number): Taken | Promise<Taken>;
  /** The result of `take`, without taking. */
  peek(key: string, count: number): Taken | Promise<Taken>;
  refund(key: string, count: number): void | Promise<void>;
}

/** Longest name and key together, as the table takes them. */
const longestKey = 120;

const now = '(extract(epoch from statement_timestamp()) * 1000)::bigint';
/**
 * Restarts a window that is over. Compares with database time only: an instance with a fast clock
 * would reset all counts.
 */
const takeText = `
  insert into sendbatch.rate as r (key, points, expire) values ($1, $2::integer, ${now} + $3::bigint)
  on conflict (key) do update set points = case when r.expire > ${now} then r.points + excluded.points else excluded.points end,
    expire = case when r.expire > ${now} then r.expire else excluded.expire end
  returning points, (expire - ${now})::float8 as ms`;
const peekText = `select points, (expire - ${now})::float8 as ms from sendbatch.rate where key = $1 and expire > ${now}`;
const giveBackText = `update sendbatch.rate set points = greatest(0, points - $2::integer) where key = $1 and expire > ${now}`;

/**
 * Opens a counter that all instances share. While the database is unavailable, `insurance` counts
 * for this process.
 */
export function openCounter(name: string, quota: Quota, pool: pg.Pool, insurance: Counter): Counter {
  const keyOf = (key: string) => `${name}:${key.length > longestKey ? hash('sha256', key, 'base64url') : key}`;
  const ask = async (text: string, values: readonly unknown[]) =>
    (await pool.query<{ points: number; ms: number }>(text, [...values])).rows[0];
  return {
    quota,
    async take(key, count) {
      try {
        const row = await ask(takeText, [keyOf(key), count, quota.seconds * 1000]);
        if (row === undefined) throw new Error('a count returned no row');
        const excess = Math.min(count, Math.max(0, row.points - quota.points));
        // All points were counted: those over the quota are refunded.
        if (excess > 0) await ask(giveBackText, [keyOf(key), excess]);
        return { taken: count - excess, remaining: Math.max(0, quota.points - row.points), resetMs: row.ms };
      } catch {
        return await insurance.take(key, count);
      }
    },
    async peek(key, count) {
      try {
        const row = await ask(peekText, [keyOf(key)]);
        const used = Math.min(quota.points, row?.points ?? 0);
        const taken = Math.min(count, quota.points - used);
        return { taken, remaining: quota.points - used - taken, resetMs: row?.ms ?? quota.seconds * 1000 };
      } catch {
        return await insurance.peek(key, count);
      }
    },
    async refund(key, count) {
      try {
        await ask(giveBackText, [keyOf(key), count]);
      } catch {
        await insurance.refund(key, count);
      }
    },
  };
}

/** Deletes windows that are over. */
export async function sweepCounters(db: Db): Promise<void> {
  await sql`delete from sendbatch.rate where expire <= ${databaseNow}`.execute(db);
}

/** Opens the counters' own connections, which wait for nothing else. */
export function openCounterPool(connection: pg.PoolConfig): pg.Pool {
  const pool = new pg.Pool({
    ...connection,
    application_name: 'sendbatch rates',
    Client: PreparingClient,
    ...watched,
    max: 4,
    connectionTimeoutMillis: 1000,
    // A send waits for the counts: after this time each process counts for itself.
    statement_timeout: 1000,
    query_timeout: 1500,
  });
  pool.on('error', () => {});
  return pool;
}
