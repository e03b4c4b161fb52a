import { sql } from 'kysely';
import type { Db } from '../postgres/schema.ts';
import { databaseNow } from '../postgres/sql.ts';
import { hourMs } from '../time.ts';

/** A crashed instance is removed this long after its last report. */
const forgottenMs = hourMs;

/** What an instance last reported, as it wrote it. */
export interface InstanceRow {
  readonly instanceId: string;
  readonly report: string;
  /** Milliseconds since 1970, database time. */
  readonly seenAt: number;
}

/**
 * Stores what an instance reports, and returns what the others reported within `withinMs`. Removes
 * instances that stopped reporting long ago.
 */
export async function exchangeReports(
  db: Db,
  { instanceId, report, withinMs }: { readonly instanceId: string; readonly report: string; readonly withinMs: number },
): Promise<InstanceRow[]> {
  const { rows } = await sql<{ instance_id: string; report: string; seen_at: number }>`
    with own as (
      insert into sendbatch.instance (instance_id, report, seen_at) values (${instanceId}, ${report}, ${databaseNow})
      on conflict (instance_id) do update set report = excluded.report, seen_at = excluded.seen_at
    ), gone as (
      delete from sendbatch.instance where seen_at < ${databaseNow} - ${forgottenMs}::bigint
    )
    select instance_id, report, seen_at from sendbatch.instance
    where instance_id <> ${instanceId} and seen_at > ${databaseNow} - ${withinMs}::bigint`.execute(db);
  return rows.map(({ instance_id, report: text, seen_at }) => ({
    instanceId: instance_id,
    report: text,
    seenAt: seen_at,
  }));
}
