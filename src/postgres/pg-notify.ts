import { sql } from 'kysely';
import type pg from 'pg';
import { PreparingClient } from './client.ts';
import { watched } from './pool.ts';
import type { Db } from './schema.ts';

/** The channel of LISTEN and NOTIFY. */
export const topic = 'sendbatch';

/** Sends payloads of at most 7,999 bytes to every listening instance, in one transaction. */
export async function notify(db: Db, payloads: readonly string[]): Promise<void> {
  await sql`select pg_notify(${topic}, payload) from unnest(${payloads}::text[]) as w(payload)`.execute(db);
}

/** The name of connections that listen: every instance has one. */
export const listenerApplication = 'sendbatch listener';

/** A connection that listens. */
export interface Listening {
  /** Resolves when the connection ends. */
  readonly gone: Promise<void>;
  close(): Promise<void>;
}

/**
 * Time between checks: a connection that only listens sends nothing and would not notice a lost
 * server.
 */
const askMs = 15_000;
const answerMs = 5000;

/**
 * Opens a connection and listens; `askEveryMs`: time between checks that the server still answers.
 */
export async function listen(
  connection: pg.ClientConfig,
  onPayload: (payload: string) => void,
  askEveryMs = askMs,
): Promise<Listening> {
  const client = new PreparingClient({
    ...connection,
    ...watched,
    application_name: listenerApplication,
    connectionTimeoutMillis: answerMs,
    query_timeout: answerMs,
  });
  const { promise: gone, resolve } = Promise.withResolvers<void>();
  client.on('error', () => resolve());
  client.on('end', () => resolve());
  client.on('notification', ({ payload }) => {
    if (payload !== undefined) onPayload(payload);
  });
  try {
    await client.connect();
    await client.query(`listen ${topic}`);
  } catch (error) {
    await client.end();
    throw error;
  }
  const asking = setInterval(() => {
    client.query('select').catch(() => client.end());
  }, askEveryMs);
  gone.then(() => clearInterval(asking));
  return { gone, close: () => client.end() };
}

/** Database time in ms. Ages use one clock, so instance clock skew cannot matter. */
const databaseNow = sql`(extract(epoch from clock_timestamp()) * 1000)::bigint`;

/** Stores ephemeral messages for the other instances; returns their ids. */
export async function insertLive(db: Db, bodies: readonly object[]): Promise<number[]> {
  const { rows } = await sql<{ live_id: number }>`
    insert into sendbatch.live_message (sent_at, body)
    select ${databaseNow}, body::jsonb from unnest(${bodies.map((body) => JSON.stringify(body))}::text[]) as w(body)
    returning live_id`.execute(db);
  return rows.map((row) => row.live_id);
}

export async function readLive(db: Db, ids: readonly number[]): Promise<unknown[]> {
  const { rows } = await sql<{ body: unknown }>`
    select body from sendbatch.live_message where live_id = any(${ids}::bigint[]) order by live_id`.execute(db);
  return rows.map((row) => row.body);
}

/** Deletes ephemeral messages older than this. */
export async function sweepLive(db: Db, longerThanMs: number): Promise<void> {
  await sql`delete from sendbatch.live_message where sent_at < ${databaseNow} - ${longerThanMs}::bigint`.execute(db);
}
