import { sql } from 'kysely';
import { migrationNames } from './migrate.ts';
import { isReadOnly, renewConnections } from './pool.ts';
import type { Db } from './schema.ts';

/** What the database says of itself to a probe. */
export interface SchemaState {
  /** Nothing can be written: it is a standby, or became one. */
  readonly readOnly: boolean;
  /** Migrations that this version needs and it does not have. One that a newer version has applied is no fault. */
  readonly missing: readonly string[];
}

/** Asks the database whether this version can work with it; throws when it cannot be reached. After a standby the next call asks over a new connection. */
export async function readSchemaState(db: Db): Promise<SchemaState> {
  const { rows } = await sql<{ names: string[]; read_only: boolean }>`
    select array(select name::text from sendbatch.migration) as names, ${isReadOnly} as read_only`.execute(db);
  const [{ names, read_only: readOnly } = { names: [], read_only: false }] = rows;
  if (readOnly) renewConnections(db);
  return { readOnly, missing: migrationNames.filter((name) => !names.includes(name)) };
}
