import { sql } from 'kysely';
import { limits } from '../limits.ts';
import type { Db } from '../postgres/schema.ts';
import { databaseNow } from '../postgres/sql.ts';
import type { TemplateText } from './template.ts';

/** A stored version. */
export interface StoredTemplate extends TemplateText {
  readonly version: number;
  /** Milliseconds since 1970. */
  readonly createdAt: number;
}

interface TemplateRow {
  readonly name: string;
  readonly version: number;
  readonly body: string;
  readonly format: TemplateText['format'];
  readonly created_at: number;
}

/** Stores the next version of a name; those that were deleted never come back. Two at once get two versions: the second waits for the first one's row, and is tried again. */
export async function insertTemplate(
  db: Db,
  { name, body, format }: TemplateText,
  now: number,
): Promise<StoredTemplate> {
  for (;;) {
    const { rows } = await sql<TemplateRow>`
      insert into sendbatch.template (name, version, body, format, created_at)
      select ${name}, greatest(max(version), (select d.version from sendbatch.template_deleted d where d.name = ${name}), 0) + 1, ${body}, ${format}, ${now}
      from sendbatch.template where name = ${name}
      on conflict do nothing
      returning *`.execute(db);
    const [row] = rows;
    if (row !== undefined) return toStoredTemplate(row);
  }
}

/** A version, or the latest for 0. */
export async function findTemplate(db: Db, name: string, version: number): Promise<StoredTemplate | undefined> {
  const { rows } = await sql<TemplateRow>`
    select * from sendbatch.template where name = ${name} and (${version}::integer = 0 or version = ${version}::integer)
    order by version desc limit 1`.execute(db);
  const [row] = rows;
  return row && toStoredTemplate(row);
}

/** The latest versions after a name: at most `limit`, and as many as fill a page and one more. */
export async function listTemplates(db: Db, after: string, limit: number): Promise<StoredTemplate[]> {
  const { rows } = await sql<TemplateRow>`
    select * from (
      select t.*, coalesce(sum(octet_length(t.body)) over (
        order by t.name rows between unbounded preceding and 1 preceding), 0) as bytes_before
      from (
        select distinct on (name) * from sendbatch.template where name > ${after}
        order by name, version desc limit ${limit}
      ) t
    ) sized
    where bytes_before <= ${limits.pageBytes} order by name`.execute(db);
  return rows.map(toStoredTemplate);
}

/** Removes all versions of a name, and keeps the number of the last. Whether there was one. */
export async function deleteTemplate(db: Db, name: string): Promise<boolean> {
  const { rows } = await sql<{ gone: number }>`
    with gone as (
      delete from sendbatch.template where name = ${name} returning version
    ), kept as (
      insert into sendbatch.template_deleted as d (name, version, deleted_at)
      select ${name}, max(version), ${databaseNow} from gone having count(*) > 0
      on conflict (name) do update set version = greatest(d.version, excluded.version), deleted_at = excluded.deleted_at
    )
    select count(*)::integer as gone from gone`.execute(db);
  return (rows[0]?.gone ?? 0) > 0;
}

/** Forgets the last versions of names that were deleted longer ago than this: no batch can ask for them any more. */
export async function sweepDeletedTemplates(db: Db, retentionMs: number): Promise<void> {
  await sql`
    delete from sendbatch.template_deleted d where deleted_at < ${databaseNow} - ${retentionMs}::bigint
      and not exists (select from sendbatch.template t where t.name = d.name)`.execute(db);
}

function toStoredTemplate({ name, version, body, format, created_at }: TemplateRow): StoredTemplate {
  return { name, version, body, format, createdAt: created_at };
}
