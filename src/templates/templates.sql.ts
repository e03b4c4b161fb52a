import { sql } from 'kysely';
import { limits } from '../limits.ts';
import type { Db } from '../postgres/schema.ts';
import { databaseNow } from '../postgres/sql.ts';
import type { TemplateText } from './template.ts';

/** A stored version of a template. */
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

/**
 * Stores the next version of a name. Deleted version numbers are never reused. A concurrent insert
 * waits for the first one's row and retries with the next number.
 */
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

/** Finds a version, or the latest for 0. */
export async function findTemplate(db: Db, name: string, version: number): Promise<StoredTemplate | undefined> {
  const { rows } = await sql<TemplateRow>`
    select * from sendbatch.template where name = ${name} and (${version}::integer = 0 or version = ${version}::integer)
    order by version desc limit 1`.execute(db);
  const [row] = rows;
  return row && toStoredTemplate(row);
}

/**
 * Lists the latest versions after a name: at most `limit`, and at most one beyond a page's bytes.
 */
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

/**
 * Lists the versions of a name below `before`, latest first: at most `limit`, and at most one
 * beyond a page's bytes.
 */
export async function listVersions(db: Db, name: string, before: number, limit: number): Promise<StoredTemplate[]> {
  const { rows } = await sql<TemplateRow>`
    select * from (
      select t.*, coalesce(sum(octet_length(t.body)) over (
        order by t.version desc rows between unbounded preceding and 1 preceding), 0) as bytes_before
      from (
        select * from sendbatch.template where name = ${name} and version < ${before}::bigint
        order by version desc limit ${limit}
      ) t
    ) sized
    where bytes_before <= ${limits.pageBytes} order by version desc`.execute(db);
  return rows.map(toStoredTemplate);
}

/** Deletes all versions of a name and records the last number; false if there are none. */
export async function deleteTemplate(db: Db, name: string): Promise<boolean> {
  const { rows } = await sql<{ count: number }>`
    with deleted as (
      delete from sendbatch.template where name = ${name} returning version
    ), recorded as (
      insert into sendbatch.template_deleted as d (name, version, deleted_at)
      select ${name}, max(version), ${databaseNow} from deleted having count(*) > 0
      on conflict (name) do update set version = greatest(d.version, excluded.version), deleted_at = excluded.deleted_at
    )
    select count(*)::integer as count from deleted`.execute(db);
  return (rows[0]?.count ?? 0) > 0;
}

/**
 * Deletes the recorded numbers of names deleted more than `retentionMs` ago: no batch can refer to
 * them.
 */
export async function sweepDeletedTemplates(db: Db, retentionMs: number): Promise<void> {
  await sql`
    delete from sendbatch.template_deleted d where deleted_at < ${databaseNow} - ${retentionMs}::bigint
      and not exists (select from sendbatch.template t where t.name = d.name)`.execute(db);
}

function toStoredTemplate({ name, version, body, format, created_at }: TemplateRow): StoredTemplate {
  return { name, version, body, format, createdAt: created_at };
}
