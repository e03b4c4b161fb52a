import { sql } from 'kysely';
import pg from 'pg';
import type { Db } from './database.ts';

/** The channel of LISTEN and NOTIFY. */
const topic = 'sendbatch';

/** Sends payloads to every instance that listens, in a transaction of their own; each at most 7,999 bytes. */
export async function notify(db: Db, payloads: readonly string[]): Promise<void> {
  await sql`select pg_notify(${topic}, payload) from unnest(${payloads}::text[]) as w(payload)`.execute(db);
}

/** A connection that listens. */
export interface Listening {
  /** Resolves when the connection is gone, whyever. */
  readonly gone: Promise<void>;
  close(): Promise<void>;
}

/** Opens a connection of its own and listens. */
export async function listen(connection: pg.ClientConfig, onPayload: (payload: string) => void): Promise<Listening> {
  const client = new pg.Client({ ...connection, application_name: 'sendbatch listener', keepAlive: true });
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
    await client.end().catch(() => {});
    throw error;
  }
  return { gone, close: () => client.end().catch(() => {}) };
}

/** Puts messages where the other instances find them; returns their ids. */
export async function insertLive(db: Db, bodies: readonly object[], now: number): Promise<number[]> {
  const { rows } = await sql<{ live_id: number }>`
    insert into sendbatch.live_message (sent_at, body)
    select ${now}::bigint, body::jsonb from unnest(${bodies.map((body) => JSON.stringify(body))}::text[]) as w(body)
    returning live_id`.execute(db);
  return rows.map((row) => row.live_id);
}

export async function readLive(db: Db, ids: readonly number[]): Promise<unknown[]> {
  const { rows } = await sql<{ body: unknown }>`
    select body from sendbatch.live_message where live_id = any(${ids}::bigint[]) order by live_id`.execute(db);
  return rows.map((row) => row.body);
}

/** Removes what was put there before; returns how many. */
export async function sweepLive(db: Db, before: number): Promise<void> {
  await sql`delete from sendbatch.live_message where sent_at < ${before}`.execute(db);
}
