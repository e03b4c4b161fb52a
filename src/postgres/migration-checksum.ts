import { hash } from 'node:crypto';
import {
  DummyDriver,
  Kysely,
  type LogEvent,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
  sql,
} from 'kysely';
import type { Migration } from 'kysely/migration';

/**
 * Digest of the SQL that a migration sends, with white space folded: the same for TypeScript and
 * its compiled code. Each query is answered without rows, so that decisions on rows of the database
 * are not part of it.
 */
export async function checksumOf(migration: Migration): Promise<string> {
  const texts: string[] = [];
  const recorder = new Kysely<unknown>({
    dialect: {
      createAdapter: () => new PostgresAdapter(),
      createDriver: () => new DummyDriver(),
      createIntrospector: (db) => new PostgresIntrospector(db),
      createQueryCompiler: () => new PostgresQueryCompiler(),
    },
    log({ query }: LogEvent) {
      texts.push(query.sql.replace(/\s+/g, ' ').trim());
    },
  });
  await migration.up(recorder);
  await recorder.destroy();
  return hash('sha256', texts.join(';'), 'hex').slice(0, 16);
}

/** Creates the table of checksums. */
export async function createChecksums<T>(db: Kysely<T>): Promise<void> {
  await sql`
    create table if not exists sendbatch.migration_checksum (
      name text primary key,
      checksum text not null
    )`.execute(db);
}

/** Records the checksum of a migration. */
export async function recordChecksum<T>(db: Kysely<T>, name: string, checksum: string): Promise<void> {
  await sql`
    insert into sendbatch.migration_checksum (name, checksum) values (${name}, ${checksum})
    on conflict (name) do nothing`.execute(db);
}

/** Reads recorded checksums by migration; none in a database from before they were recorded. */
export async function readChecksums<T>(db: Kysely<T>): Promise<ReadonlyMap<string, string>> {
  const there = await sql<{ there: boolean }>`
    select to_regclass('sendbatch.migration_checksum') is not null as there`.execute(db);
  if (there.rows[0]?.there !== true) return new Map();
  const { rows } = await sql<{ name: string; checksum: string }>`
    select name, checksum from sendbatch.migration_checksum`.execute(db);
  return new Map(rows.map((row) => [row.name, row.checksum]));
}
