import { sql } from 'kysely';
import type { Db } from './schema.ts';

/** Counts connections of the service that wait for a lock, and how long the first has waited. */
export async function readLockWaits(db: Db): Promise<{ waiting: number; longestSeconds: number }> {
  const { rows } = await sql<{ waiting: number; longest: number }>`
    select count(*) as waiting, coalesce(extract(epoch from max(clock_timestamp() - waitstart)), 0)::float8 as longest
    from pg_locks join pg_stat_activity using (pid)
    where not granted and datname = current_database() and application_name like 'sendbatch%'`.execute(db);
  return { waiting: Number(rows[0]?.waiting ?? 0), longestSeconds: Math.max(0, rows[0]?.longest ?? 0) };
}
