import type { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import { CompiledQuery } from 'kysely';
import pg from 'pg';
import { isCondemning } from './pg-errors.ts';
import type { Db, Tx } from './schema.ts';

/** A statement that a connection parses and plans once. */
export interface PreparedStatement {
  readonly name: string;
  readonly text: string;
  /**
   * Updates from a list walk that list in its order and look each row up by its key. Planned freely they may hash the list, and lock in the order of
   * the table.
   */
  readonly inListOrder?: boolean;
}

/** Runs a prepared statement. Outside of a transaction it is one of its own. */
export async function runPrepared<Row>(
  db: Db | Tx,
  statement: PreparedStatement,
  values: readonly unknown[],
): Promise<Row[]> {
  const { rows } = await db.executeQuery<Row>(CompiledQuery.raw(statement.text, [new Run(statement, values)]));
  return rows;
}

/** How a prepared statement goes through Kysely, which knows of texts and parameters only: as the one parameter. */
class Run {
  readonly statement: PreparedStatement;
  readonly values: readonly unknown[];

  constructor(statement: PreparedStatement, values: readonly unknown[]) {
    this.statement = statement;
    this.values = values;
  }
}

/** What pg hands to a query to send itself with. */
interface Wire {
  parse(statement: { text: string }): void;
  bind(portal: object): void;
  execute(portal: object): void;
}

/**
 * The planner's settings, in a statement that has no rows to read. They are the transaction's: PostgreSQL ends one at Sync, which is sent behind the
 * statement that follows.
 */
const followTheList = `select from (
    select set_config('enable_hashjoin', 'off', true) || set_config('enable_mergejoin', 'off', true) || set_config('enable_seqscan', 'off', true) as done
  ) as settings where done is null`;

/**
 * A statement with the planner's settings before it: one flight, one transaction. They go out before its Bind, at which it is planned, and not before its
 * Parse: pg takes the first ParseComplete that it hears for the statement's own.
 */
class InListOrder extends pg.Query {
  override submit = (connection: unknown): Error | null => {
    const wire = connection as Wire;
    const bind = (portal: object) => {
      wire.parse({ text: followTheList });
      wire.bind({});
      wire.execute({});
      wire.bind(portal);
    };
    return sendItself.call(this, Object.assign(Object.create(wire), { bind }));
  };
}
const sendItself = pg.Query.prototype.submit as unknown as (this: pg.Query, connection: unknown) => Error | null;

/** How long a connection may take to end after it was told to. */
const endMs = 1000;

type Release = (error?: Error | boolean) => void;

/**
 * pg's client, which knows prepared statements as `runPrepared` sends them, ends also when the other end does not answer any more, and is not given back to its pool after
 * an error that says that it is of no use.
 */
export class PreparingClient extends pg.Client {
  /** Why no pool may hand it out again. */
  condemned: Error | undefined;
  #release: Release | undefined;

  constructor(config?: string | pg.ClientConfig) {
    super(config);
    const { connection } = this as unknown as { connection: EventEmitter };
    connection.on('errorMessage', (error: Error) => {
      if (isCondemning(error)) this.condemned ??= error;
    });
  }

  /** pg's pool sets it whenever it hands the client out, and removes a client that is given back with an error. */
  get release(): Release | undefined {
    return this.#release;
  }

  set release(release: Release | undefined) {
    this.#release = release && ((error) => release(error ? error : this.condemned));
  }

  // biome-ignore lint/suspicious/noExplicitAny: pg types this method as two overloads
  override end(...args: any[]): any {
    const { stream } = (this as unknown as { connection: { stream: Socket } }).connection;
    const timer = setTimeout(() => stream.destroy(), endMs).unref();
    stream.once('close', () => clearTimeout(timer));
    return super.end(...(args as []));
  }

  // biome-ignore lint/suspicious/noExplicitAny: pg types this method as nine overloads
  override query(...args: any[]): any {
    const [, values] = args;
    const one: unknown = values?.[0];
    if (!(one instanceof Run)) return super.query(...(args as [string]));
    const { name, text, inListOrder = false } = one.statement;
    const { promise, resolve, reject } = Promise.withResolvers<pg.QueryResult | undefined>();
    const query = new (inListOrder ? InListOrder : pg.Query)({ name, text, values: [...one.values] });
    Object.assign(query, {
      callback: (error: Error | null, result: pg.QueryResult | pg.QueryResult[]) =>
        error ? reject(error) : resolve(Array.isArray(result) ? result.at(-1) : result),
    });
    super.query(query);
    return promise;
  }
}

/** Stands around one statement: its name if it is prepared, its text with placeholders. */
export type TraceStatement = <T>(
  statement: { readonly name?: string; readonly text: string },
  runPrepared: () => Promise<T>,
) => Promise<T>;

/** A client whose statements are traced. */
export function tracingClient(trace: TraceStatement): typeof PreparingClient {
  return class extends PreparingClient {
    // biome-ignore lint/suspicious/noExplicitAny: as above
    override query(...args: any[]): any {
      const [text, values] = args;
      if (typeof text !== 'string') return super.query(...args);
      const one: unknown = values?.[0];
      const statement = one instanceof Run ? { name: one.statement.name, text: one.statement.text } : { text };
      return trace(statement, () => super.query(...args));
    }
  };
}
