import { type Kysely, sql } from 'kysely';
import { type Migration, Migrator } from 'kysely/migration';
import { checksumOf, createChecksums, readChecksums, recordChecksum } from './migration-checksum.ts';
import { up as messages } from './migrations/0001-messages.ts';
import { up as channels } from './migrations/0002-channels.ts';
import { up as apiKeys } from './migrations/0003-api-keys.ts';
import { up as rates } from './migrations/0004-rates.ts';
import { up as moderation } from './migrations/0005-moderation.ts';
import { up as reading } from './migrations/0006-reading.ts';
import { up as templates } from './migrations/0007-templates.ts';
import { up as batches } from './migrations/0008-batches.ts';
import { up as swept } from './migrations/0010-swept.ts';
import { up as webhooks } from './migrations/0011-webhooks.ts';
import { up as unsettled } from './migrations/0012-unsettled.ts';
import { up as readingBySequence } from './migrations/0014-reading-by-sequence.ts';
import { up as batchColumns } from './migrations/0015-batch-columns.ts';
import { up as background } from './migrations/0016-background.ts';

/**
 * Every migration, in the order of their names. One that was released is never edited: add another. A database records the checksum of each
 * (./checksum.ts), and a start refuses one that was made with another text.
 *
 * Old and new instances share the database while a release rolls out, so that a migration only adds: tables, columns that old code need not
 * fill, indexes. What takes away (a column that nobody reads any more) comes in a later release, and its name ends in `-needs-<number>`: the
 * migration that came with the first version that can do without. An older version refuses to start then; any other starts on a newer schema.
 */
const migrations: Record<string, Migration> = {
  '0001-messages': { up: messages },
  '0002-channels': { up: channels },
  '0003-api-keys': { up: apiKeys },
  '0004-rates': { up: rates },
  '0005-moderation': { up: moderation },
  '0006-reading': { up: reading },
  '0007-templates': { up: templates },
  '0008-batches': { up: batches },
  '0010-swept': { up: swept },
  '0011-webhooks': { up: webhooks },
  '0012-unsettled': { up: unsettled },
  '0014-reading-by-sequence': { up: readingBySequence },
  '0015-batch-columns': { up: batchColumns },
  '0016-background': { up: background },
};

/** What a database must have for this version to work with it. */
export const migrationNames: readonly string[] = Object.keys(migrations);

/** The schema of the database is not one that this version can work with. */
export class MigrationError extends Error {}

/** What the database has, as this version sees it. */
export interface SchemaStatus {
  /** Migrations of this version that were applied. */
  readonly applied: readonly string[];
  /** Those that were not yet. */
  readonly pending: readonly string[];
  /** Those of newer versions, which this one can work with. */
  readonly newer: readonly string[];
}

/**
 * Reads what the database has, and changes nothing. Throws when a newer version made of the schema what this one cannot work with, and when a migration
 * was applied with another text than this version has.
 */
export async function schemaStatus<T>(db: Kysely<T>): Promise<SchemaStatus> {
  const known = Object.keys(migrations);
  const there = await sql<{ there: boolean }>`select to_regclass('sendbatch.migration') is not null as there`.execute(
    db,
  );
  const { rows } =
    there.rows[0]?.there === true
      ? await sql<{ name: string }>`select name from sendbatch.migration order by name`.execute(db)
      : { rows: [] };
  const found = rows.map((row) => row.name);
  const newer = found.filter((name) => !Object.hasOwn(migrations, name));
  const pending = known.filter((name) => !found.includes(name));
  const last = known.at(-1) ?? '';
  for (const name of newer) {
    const odd = name < last ? last : pending[0];
    if (odd !== undefined)
      throw new MigrationError(
        `the schema has ${name}, which does not follow ${odd}: it was made by another line of versions`,
      );
    const needed = /-needs-(\d{4})$/.exec(name)?.[1];
    if (needed !== undefined && needed > last.slice(0, 4))
      throw new MigrationError(
        `the schema is a newer version's: after ${name} it takes one that knows migration ${needed}, this one knows them up to ${last}`,
      );
  }
  const applied = known.filter((name) => found.includes(name));
  await refuseEdited(db, applied);
  return { applied, pending, newer };
}

/** The checksums of this version's migrations, by name. */
const checksums = (() => {
  let made: Promise<ReadonlyMap<string, string>> | undefined;
  return () => {
    made ??= Promise.all(
      Object.entries(migrations).map(async ([name, migration]) => [name, await checksumOf(migration)] as const),
    ).then((entries) => new Map(entries));
    return made;
  };
})();

async function refuseEdited<T>(db: Kysely<T>, applied: readonly string[]): Promise<void> {
  const [own, recorded] = [await checksums(), await readChecksums(db)];
  const edited = applied.filter((name) => recorded.has(name) && recorded.get(name) !== own.get(name));
  if (edited.length === 0) return;
  const each = edited.map((name) => `${name} (${recorded.get(name)}, here ${own.get(name)})`).join(', ');
  throw new MigrationError(
    `the database was made with another text of ${each} than this version has: run the version that made it; if the schema is known to be right all the same, delete the row from sendbatch.migration_checksum and start again`,
  );
}

/** Databases from before checksums were kept get those of this version. */
async function recordApplied<T>(db: Kysely<T>, applied: readonly string[], more: boolean): Promise<void> {
  const [own, recorded] = [await checksums(), await readChecksums(db)];
  const missing = applied.filter((name) => !recorded.has(name));
  // A role that only serves may not create: where nothing is missing, nothing is tried.
  if (missing.length > 0 || more) await createChecksums(db);
  for (const name of missing) await recordChecksum(db, name, own.get(name) ?? '');
}

/**
 * Brings the schema up to date and returns what was applied. Safe when many instances start at once: the advisory lock is taken before
 * anything is looked at or made, and who waited finds the work done. (Kysely's own lock comes only after its tables were made, which two
 * first starts can do at once.) The lock is a transaction's, so that no pooler can leave it behind, and that transaction is not the
 * migrations' own, so that a failing migration's words are not lost with it.
 *
 * `also` is done under the same lock, after them, and says what it did.
 *
 * `db` needs two connections and no time-outs: building an index may take its time, and so may another instance that does it.
 */
export async function migrate<T>(db: Kysely<T>, also: () => Promise<string[]> = async () => []): Promise<string[]> {
  return await db.transaction().execute(async (lock) => {
    await sql`select pg_advisory_xact_lock(hashtextextended('sendbatch.migrate', 0))`.execute(lock);
    // Kysely takes migrations of newer versions for a corrupted list; where there are any, nothing is pending.
    const { applied, pending } = await schemaStatus(db);
    if (pending.length > 0) await sql`create schema if not exists sendbatch`.execute(db);
    await recordApplied(db, applied, pending.length > 0);
    if (pending.length === 0) return await also();
    const own = await checksums();
    // In the transaction of the migration itself.
    const recorded = Object.entries(migrations).map(([name, { up }]): [string, Migration] => [
      name,
      {
        async up(tx) {
          await up(tx);
          await recordChecksum(tx, name, own.get(name) ?? '');
        },
      },
    ]);
    const migrator = new Migrator({
      db,
      provider: { getMigrations: async () => Object.fromEntries(recorded) },
      migrationTableSchema: 'sendbatch',
      migrationTableName: 'migration',
      migrationLockTableName: 'migration_lock',
    });
    const { error, results = [] } = await migrator.migrateToLatest();
    if (error !== undefined) {
      const failed = results.find((result) => result.status === 'Error')?.migrationName;
      const text = error instanceof Error ? error.message : String(error);
      throw new MigrationError(failed === undefined ? text : `migration ${failed} failed and was undone: ${text}`, {
        cause: error,
      });
    }
    return [...results.map((result) => result.migrationName), ...(await also())];
  });
}
