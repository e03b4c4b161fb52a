// One connection of a pool, used by several statements at a time.
//
// - `withConnection`: statements are sent without waiting for the answers of earlier ones. Kysely's
//   own `db.connection()` sends the next statement when the answer to the last one has arrived.
// - `SharedConnection`: several users share a connection while any of them needs it.
// PostgreSQL executes the statements of a connection in the order in which they were sent, and
// answers in that order. An error affects its own statement only, outside of a transaction.

import {
  type Dialect,
  Kysely,
  PostgresAdapter,
  PostgresDriver,
  PostgresIntrospector,
  PostgresQueryCompiler,
  type QueryExecutor,
  Transaction,
} from 'kysely';
import { classifyPgError } from './pg-errors.ts';
import type { Db, Tables, Tx } from './schema.ts';

/** Begins and ends transactions on connections that an executor provides; has none of its own. */
const driver = new PostgresDriver({ pool: () => Promise.reject(new Error('no pool')) });
const dialect: Dialect = {
  createAdapter: () => new PostgresAdapter(),
  createDriver: () => driver,
  createIntrospector: (db) => new PostgresIntrospector(db),
  createQueryCompiler: () => new PostgresQueryCompiler(),
};
/** What Kysely is made of, around an executor. */
export const propsOf = (executor: QueryExecutor) => ({ config: { dialect }, dialect, driver, executor });

/**
 * Runs `work` with a connection of the pool. The connection returns to the pool when `work` ends,
 * and must have answered all statements by then (`all`).
 */
export async function withConnection<T>(db: Db, work: (connection: Db) => Promise<T>): Promise<T> {
  const executor = db.getExecutor();
  return await executor.provideConnection((connection) =>
    work(
      new Kysely<Tables>(
        propsOf(executor.withConnectionProvider({ provideConnection: (consumer) => consumer(connection) })),
      ),
    ),
  );
}

/**
 * The connection as Kysely's type for a transaction. Kysely's own transactions wait for BEGIN; this
 * one begins and ends nothing.
 */
export function transactionOn(connection: Db): Tx {
  return new Transaction<Tables>(propsOf(connection.getExecutor()));
}

interface Open {
  readonly connection: Promise<Db>;
  users: number;
  readonly release: () => void;
}

/**
 * A connection that is taken from the pool by its first user and returned by its last. Users send
 * single statements, which are transactions of their own.
 */
export class SharedConnection {
  readonly #db: Db;
  #open: Open | undefined;

  constructor(db: Db) {
    this.#db = db;
  }

  async run<T>(work: (connection: Db) => Promise<T>): Promise<T> {
    this.#open ??= this.#take();
    const open = this.#open;
    open.users++;
    try {
      return await work(await open.connection);
    } catch (error) {
      // The next user takes another connection, although this one may still have users.
      const errorClass = classifyPgError(error);
      if (this.#open === open && (errorClass === 'lost' || errorClass === 'retry')) this.#open = undefined;
      throw error;
    } finally {
      if (--open.users === 0) {
        if (this.#open === open) this.#open = undefined;
        open.release();
      }
    }
  }

  #take(): Open {
    const taken = Promise.withResolvers<Db>();
    const released = Promise.withResolvers<void>();
    withConnection(this.#db, async (connection) => {
      taken.resolve(connection);
      await released.promise;
    }).catch(taken.reject);
    return { connection: taken.promise, users: 0, release: released.resolve };
  }
}
