import { sql } from 'kysely';
import type { Db } from './schema.ts';

/** Connections of ours that wait for a lock at this moment, and for how long the first of them has. */
export async function readLockWaits(db: Db): Promise<{ waiting: number; longestSeconds: number }> {
  const { rows } = await sql<{ waiting: number; longest: number }>`
    select count(*) as waiting, coalesce(extract(epoch from max(clock_timestamp() - waitstart)), 0)::float8 as longest
    from pg_locks join pg_stat_activity using (pid)
    where not granted and datname = current_database() and application_name like 'sendbatch%'`.execute(db);
  return { waiting: Number(rows[0]?.waiting ?? 0), longestSeconds: Math.max(0, rows[0]?.longest ?? 0) };
}
