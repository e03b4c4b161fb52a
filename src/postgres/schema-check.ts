import { sql } from 'kysely';
import { migrationNames } from './migrate.ts';
import { isReadOnly, renewConnections } from './pool.ts';
import type { Db } from './schema.ts';

/** State of the schema, for a probe. */
export interface SchemaState {
  /** Whether the database is read-only: a standby, or one that became a standby. */
  readonly readOnly: boolean;
  /**
   * Migrations that this version needs and the database lacks. Migrations of newer versions are
   * fine.
   */
  readonly missing: readonly string[];
}

/**
 * Reads whether this version can work with the database; throws when it is unreachable. Reconnects
 * after a standby.
 */
export async function readSchemaState(db: Db): Promise<SchemaState> {
  const { rows } = await sql<{ names: string[]; read_only: boolean }>`
    select array(select name::text from sendbatch.migration) as names, ${isReadOnly} as read_only`.execute(db);
  const [{ names, read_only: readOnly } = { names: [], read_only: false }] = rows;
  if (readOnly) renewConnections(db);
  return { readOnly, missing: migrationNames.filter((name) => !names.includes(name)) };
}
