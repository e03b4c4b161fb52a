import { type Kysely, sql } from 'kysely';
import { type Migration, Migrator } from 'kysely/migration';
import { checksumOf, createChecksums, readChecksums, recordChecksum } from './migration-checksum.ts';
import { MigrationError } from './migration-error.ts';
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
import { up as changes } from './migrations/0017-changes.ts';
import { up as shards } from './migrations/0018-shards.ts';
import { up as recall } from './migrations/0019-recall.ts';
import { up as reach } from './migrations/0020-reach.ts';
import { up as console } from './migrations/0021-console.ts';
import { up as shardSplit } from './migrations/0022-shard-split.ts';

/**
 * Every migration, in the order of their names. A released one is never edited: add another. A
 * database records the checksum of each (migration-checksum.ts), and the service refuses to start
 * on one with another text. Statements on the tables of channels (`shardTables`) run in
 * `forEachShard`; a test compares the schemas of shards with one that has no others.
 *
 * Old and new instances share the database during a rollout, so that a migration only adds: tables,
 * indexes, columns that old code need not fill. A migration that removes something belongs to a
 * later release, and its name ends in `-needs-<number>`: the migration of the first version that
 * works without it. Older versions then refuse to start; any other version starts on a newer
 * schema.
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
  '0017-changes': { up: changes },
  '0018-shards': { up: shards },
  '0019-recall': { up: recall },
  '0020-reach': { up: reach },
  '0021-console': { up: console },
  '0022-shard-split': { up: shardSplit },
};

/** The migrations that a database must have for this version. */
export const migrationNames: readonly string[] = Object.keys(migrations);

/** State of the migrations of a database, as this version sees it. */
export interface SchemaStatus {
  /** Applied migrations of this version. */
  readonly applied: readonly string[];
  /** Migrations of this version that are not applied yet. */
  readonly pending: readonly string[];
  /** Applied migrations of newer versions, with which this one can work. */
  readonly newer: readonly string[];
}

/**
 * Reads the state of the migrations, and changes nothing. Throws when a newer version made the
 * schema incompatible, and when a migration was applied with another text than this version has.
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

/** Checksums of this version's migrations, by name. */
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

/** Records this version's checksums in databases that have none yet. */
async function recordApplied<T>(db: Kysely<T>, applied: readonly string[], more: boolean): Promise<void> {
  const [own, recorded] = [await checksums(), await readChecksums(db)];
  const missing = applied.filter((name) => !recorded.has(name));
  // A role without CREATE may serve: if nothing is missing, nothing is attempted.
  if (missing.length > 0 || more) await createChecksums(db);
  for (const name of missing) await recordChecksum(db, name, own.get(name) ?? '');
}

/**
 * Applies pending migrations and returns their names. Safe when many instances start at once: the
 * advisory lock is taken before anything is read or created, and an instance that waited finds the
 * work done. (Kysely takes its own lock after its tables are created, which two first starts can do
 * at once.) The lock belongs to a transaction, so that no pooler can leave it behind, and not to
 * the migrations' own, so that the error of a failed migration is kept.
 *
 * `also` runs under the same lock, after the migrations, and returns what it did.
 *
 * `db` needs two connections without timeouts: building an index may take long, here or in another
 * instance.
 */
export async function migrate<T>(db: Kysely<T>, also: () => Promise<string[]> = async () => []): Promise<string[]> {
  return await db.transaction().execute(async (lock) => {
    await sql`select pg_advisory_xact_lock(hashtextextended('sendbatch.migrate', 0))`.execute(lock);
    // Kysely takes migrations of newer versions for a corrupted list; if there are any, none is
    // pending.
    const { applied, pending } = await schemaStatus(db);
    if (pending.length > 0) await sql`create schema if not exists sendbatch`.execute(db);
    await recordApplied(db, applied, pending.length > 0);
    if (pending.length === 0) return await also();
    const own = await checksums();
    // In the same transaction as the migration.
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
