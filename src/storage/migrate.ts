import { type Kysely, sql } from 'kysely';
import { type Migration, Migrator } from 'kysely/migration';
import { up as messages } from './migrations/0001-messages.ts';
import { up as channels } from './migrations/0002-channels.ts';
import { up as apiKeys } from './migrations/0003-api-keys.ts';
import { up as rates } from './migrations/0004-rates.ts';
import { up as moderation } from './migrations/0005-moderation.ts';
import { up as reading } from './migrations/0006-reading.ts';
import { up as templates } from './migrations/0007-templates.ts';
import { up as batches } from './migrations/0008-batches.ts';
import { up as swept } from './migrations/0010-swept.ts';

/** Every migration, in the order of their names. One that was released is never edited: add another. */
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
};

/** The schema of the database is not one that this version can work with. */
export class MigrationError extends Error {}

/**
 * Brings the schema up to date and returns what was applied. Safe when many instances start at once: the advisory lock is taken before
 * anything is looked at or made, and who waited finds the work done. (Kysely's own lock comes only after its tables were made, which two
 * first starts can do at once.) The lock is a transaction's, so that no pooler can leave it behind, and that transaction is not the
 * migrations' own, so that a failing migration's words are not lost with it.
 *
 * `db` needs two connections and no time-outs: building an index may take its time, and so may another instance that does it.
 */
export async function migrate<T>(db: Kysely<T>): Promise<string[]> {
  return await db.transaction().execute(async (lock) => {
    await sql`select pg_advisory_xact_lock(hashtextextended('sendbatch.migrate', 0))`.execute(lock);
    await sql`create schema if not exists sendbatch`.execute(db);
    const migrator = new Migrator({
      db,
      provider: { getMigrations: async () => migrations },
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
    return results.map((result) => result.migrationName);
  });
}
