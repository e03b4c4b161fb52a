import { hash } from 'node:crypto';
import pg from 'pg';
import { RateLimiterMemory, RateLimiterPostgres, RateLimiterRes } from 'rate-limiter-flexible';
import { watched } from './database.ts';
import { PreparingClient } from './prepared.ts';

/** So many in so many seconds. */
export interface Quota {
  readonly points: number;
  readonly seconds: number;
}

/** What was had of a quota. */
export interface Taken {
  /** Of what was asked for; the rest is over the quota. */
  readonly taken: number;
  readonly remaining: number;
  /** Until the window ends. */
  readonly resetMs: number;
}

/** Counts by key, in windows of fixed length that begin with the first count. */
export interface Counter {
  readonly quota: Quota;
  take(key: string, count: number): Taken | Promise<Taken>;
  /** What `take` would say, without taking. */
  peek(key: string, count: number): Taken | Promise<Taken>;
  giveBack(key: string, count: number): void | Promise<void>;
}

/** The library's table has 255 characters for a key. */
const longestKey = 120;

/** Opens a counter in a table that all instances share. While the database cannot be asked this process counts for itself (the library's insurance limiter). */
export function openCounter(name: string, quota: Quota, pool: pg.Pool): Counter {
  const options = { keyPrefix: name, points: quota.points, duration: quota.seconds };
  const memory = new RateLimiterMemory(options);
  const limiter = new RateLimiterPostgres({
    ...options,
    storeClient: pool,
    storeType: 'pool',
    schemaName: 'sendbatch',
    tableName: 'rate',
    tableCreated: true,
    insuranceLimiter: memory,
  });
  const short = (key: string) => (key.length > longestKey ? hash('sha256', key, 'base64url') : key);
  return {
    quota,
    take: (key, count) =>
      limiter.consume(short(key), count).then(
        ({ remainingPoints, msBeforeNext }) => ({ taken: count, remaining: remainingPoints, resetMs: msBeforeNext }),
        async (over: unknown) => {
          if (!(over instanceof RateLimiterRes)) throw over;
          // The library has counted all of it: what is over the quota goes back.
          const excess = Math.min(count, over.consumedPoints - quota.points);
          await limiter.reward(short(key), excess);
          return { taken: count - excess, remaining: 0, resetMs: over.msBeforeNext };
        },
      ),
    async peek(key, count) {
      const found = await limiter.get(short(key));
      const used = Math.min(quota.points, found?.consumedPoints ?? 0);
      const taken = Math.min(count, quota.points - used);
      return { taken, remaining: quota.points - used - taken, resetMs: found?.msBeforeNext ?? quota.seconds * 1000 };
    },
    async giveBack(key, count) {
      await limiter.reward(short(key), count);
    },
  };
}

/** The connections of the counters; they wait for nothing else. */
export function openCounterPool(connection: pg.PoolConfig): pg.Pool {
  const pool = new pg.Pool({
    ...connection,
    application_name: 'sendbatch rates',
    Client: PreparingClient,
    ...watched,
    max: 4,
    connectionTimeoutMillis: 1000,
    // While the counts cannot be had each process counts for itself: soon enough for the send that waits for them.
    statement_timeout: 1000,
    query_timeout: 1500,
  });
  pool.on('error', () => {});
  return pool;
}
