/**
 * SQL beside Kysely's builder: named statements that a connection parses and plans once, and how
 * several statements share a round trip.
 *
 * - `Statement`: a named, prepared statement. It runs on a `Kysely` or `Transaction` and goes
 *   through Kysely's executor, so that it uses the pool or the transaction's connection like any
 *   other query.
 * - `runByKey`: the same for SQL that Kysely's `sql` composes.
 * - `all`: waits for statements that were sent without waiting for each other. pg pipelines them on
 *   one connection.
 * - `databaseNow`: the database's clock as an expression.
 *
 * `client.ts` sends prepared statements. A pooler in between must support them (PgBouncer 1.21 or
 * later).
 */
import { CompiledQuery, type RawBuilder, sql } from 'kysely';
import type { Db, Tx } from './schema.ts';

/**
 * Database time in an SQL statement, in milliseconds since 1970: instances compare times by this
 * clock.
 */
export const databaseNow = sql<number>`(extract(epoch from statement_timestamp()) * 1000)::bigint`;

export interface StatementOptions {
  /** Unique among all statements: connections cache plans by it. */
  readonly name: string;
  /** SQL with `$1`, `$2` … */
  readonly text: string;
  /**
   * Finds rows by their keys, those of a list in its order, with one plan for all values:
   *  1. PostgreSQL otherwise plans a statement with a short list at each execution, since that plan
   *     looks cheaper. It took 0.6 of 0.9 ms of CPU to store one message, and 0.3 ms to read
   *     permission facts.
   *  2. A plan that was made while a table was small may read all of it, until the next ANALYZE.
   *  3. An UPDATE that hashes its list locks rows in the order of the table.
   */
  readonly byKey?: boolean;
  /** Its rows are `DataRows` (binary-rows.ts): in binary, not decoded. */
  readonly isBinary?: boolean;
}

/** A statement that each connection parses and plans once. */
export class Statement<Row> {
  readonly name: string;
  readonly text: string;
  readonly byKey: boolean;
  readonly isBinary: boolean;

  constructor({ name, text, byKey = false, isBinary = false }: StatementOptions) {
    this.name = name;
    this.text = text;
    this.byKey = byKey;
    this.isBinary = isBinary;
  }

  /** Runs the statement; outside of a transaction it is a transaction of its own. */
  async run(db: Db | Tx, values: readonly unknown[]): Promise<Row[]> {
    const { rows } = await db.executeQuery<Row>(CompiledQuery.raw(this.text, [new Execution(this, values)]));
    return rows;
  }
}

const composed = new Map<string, Statement<unknown>>();

/**
 * Runs SQL as a statement by key (`StatementOptions.byKey`), prepared under this name. Its text
 * must be the same at each call.
 */
export async function runByKey<Row>(db: Db | Tx, name: string, query: RawBuilder<Row>): Promise<Row[]> {
  const { sql: text, parameters } = query.compile(db);
  let statement = composed.get(name);
  if (statement === undefined) {
    statement = new Statement({ name, text, byKey: true });
    composed.set(name, statement);
  }
  if (statement.text !== text) throw new Error(`the statement "${name}" has two texts`);
  return (await statement.run(db, parameters)) as Row[];
}

/**
 * A statement with its values on the way through Kysely, which knows texts and parameters only: as
 * the single parameter.
 */
export class Execution {
  readonly statement: Statement<unknown>;
  readonly values: readonly unknown[];

  constructor(statement: Statement<unknown>, values: readonly unknown[]) {
    this.statement = statement;
    this.values = values;
  }
}

/**
 * Waits for all promises, even after one has failed: a connection must not return to its pool with
 * a statement in flight. Throws the first error in the order of `work`.
 */
export async function all<T extends readonly unknown[]>(
  work: readonly [...{ [K in keyof T]: Promise<T[K]> }],
): Promise<{ -readonly [K in keyof T]: Awaited<Promise<T[K]>> }> {
  for (const end of await Promise.allSettled(work)) if (end.status === 'rejected') throw end.reason;
  return await Promise.all(work);
}
