import { sql } from 'kysely';
import type { Db } from './database.ts';
import { migrationNames } from './migrate.ts';

/** Asks the database for the migrations that this version needs and it does not have; throws when it cannot be reached. One that a newer version has applied is no fault. */
export async function missingMigrations(db: Db): Promise<string[]> {
  const { rows } = await sql<{ name: string }>`select name from sendbatch.migration`.execute(db);
  const applied = new Set(rows.map((row) => row.name));
  return migrationNames.filter((name) => !applied.has(name));
}
