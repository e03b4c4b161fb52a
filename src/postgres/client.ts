import type { EventEmitter } from 'node:events';
import pg from 'pg';
import { type DataRows, takeBinaryRows } from './binary-rows.ts';
import { isCondemning } from './pg-errors.ts';
import { Execution } from './sql.ts';

declare module 'pg' {
  interface ClientBase {
    /** The protocol connection, which the types of pg leave out. */
    readonly connection: pg.Connection;
  }
  interface Connection {
    /** Called once the stream speaks the protocol; the types of pg leave it out too. */
    attachListeners(stream: EventEmitter): void;
  }
}

/**
 * Planner settings in a statement without rows, local to the transaction. PostgreSQL ends that at
 * Sync, which is sent after the statement that follows. Citus, which has the setting
 * `citus.version`, refuses plans for all values: it needs the values to find the node. A table
 * without a fitting index is read all the same, at a cost that jit compiles every execution for.
 */
const planByKey = 'plan by key';
const planByKeyText = `select from (select ${[
  [
    'plan_cache_mode',
    `case when current_setting('citus.version', true) is null then 'force_generic_plan' else 'auto' end`,
  ],
  ...['enable_hashjoin', 'enable_mergejoin', 'enable_seqscan', 'enable_bitmapscan', 'jit'].map((name) => [
    name,
    `'off'`,
  ]),
]
  .map(([name, value]) => `set_config('${name}', ${value}, true)`)
  .join(' || ')} as done) as settings where done is null`;

/** Connections that have parsed it. */
const prepared = new WeakSet<pg.Connection>();

/**
 * A query with planner settings before it, in the same round trip and transaction. They are sent
 * before its Bind, at which it is planned, and not before its Parse: pg takes the first
 * ParseComplete for the query's own.
 */
class ByKey extends pg.Query {
  override submit = (connection: pg.Connection) => {
    const bind = (portal: pg.BindConfig | null) => {
      if (!prepared.has(connection)) {
        prepared.add(connection);
        connection.parse({ name: planByKey, text: planByKeyText, types: [] }, true);
      }
      connection.bind({ statement: planByKey }, true);
      connection.execute({}, true);
      connection.bind(portal, true);
    };
    // Returned although typed void: pg reads an error that prevented sending.
    return submit.call(this, Object.assign(Object.create(connection), { bind }));
  };
}
const { submit } = pg.Query.prototype;

/** How long a connection may take to end before its socket is destroyed. */
const endMs = 1000;

type Release = (error?: Error | boolean) => void;

/**
 * pg's client, extended:
 *  1. it sends prepared statements (`Statement.run`), and leaves binary rows undecoded;
 *  2. `end` ends it also when the server does not answer any more;
 *  3. after an error that makes it unusable, the pool discards it.
 */
export class PreparingClient extends pg.Client {
  /** The error after which no pool may reuse this client. */
  condemned: Error | undefined;
  #release: Release | undefined;

  constructor(config?: string | pg.ClientConfig) {
    super(config);
    const { connection } = this;
    const attach = connection.attachListeners.bind(connection);
    connection.attachListeners = (stream) => attach(takeBinaryRows(stream, (rows) => connection.emit('dataRow', rows)));
    connection.on('errorMessage', (error: Error) => {
      if (isCondemning(error)) this.condemned ??= error;
    });
  }

  /**
   * Set by pg's pool at each checkout. The pool discards a client that is released with an error.
   */
  get release(): Release | undefined {
    return this.#release;
  }

  set release(release: Release | undefined) {
    this.#release = release && ((error) => release(error ? error : this.condemned));
  }

  override end(): Promise<void>;
  override end(callback: (error: Error) => void): void;
  override end(callback?: (error: Error) => void): Promise<void> | void {
    const { stream } = this.connection;
    const timer = setTimeout(() => stream.destroy(), endMs).unref();
    stream.once('close', () => clearTimeout(timer));
    return callback === undefined ? super.end() : super.end(callback);
  }

  // biome-ignore lint/suspicious/noExplicitAny: pg types this method as nine overloads
  override query(...args: any[]): any {
    const execution: unknown = args[1]?.[0];
    if (!(execution instanceof Execution)) return super.query(...(args as [string]));
    const { name, text, byKey, isBinary } = execution.statement;
    const { promise, resolve, reject } = Promise.withResolvers<pg.QueryResult | undefined>();
    // `binary` is missing in the types of pg.
    const config = { name, text, values: [...execution.values], binary: isBinary };
    const query = new (byKey ? ByKey : pg.Query)(config);
    Object.assign(query, {
      callback: (error: Error | null, result: pg.QueryResult | pg.QueryResult[]) =>
        error ? reject(error) : resolve(Array.isArray(result) ? result.at(-1) : result),
    });
    if (isBinary) {
      const rows: DataRows[] = [];
      Object.assign(query, { handleDataRow: (each: DataRows) => rows.push(each) });
      super.query(query);
      return promise.then((result) => Object.assign({}, result, { rows }));
    }
    super.query(query);
    return promise;
  }
}

/**
 * Wraps the execution of one statement: its name if it is prepared, and its text with placeholders.
 */
export type TraceStatement = <T>(
  statement: { readonly name?: string; readonly text: string },
  run: () => Promise<T>,
) => Promise<T>;

/** A client whose statements are traced. */
export function tracingClient(trace: TraceStatement): typeof PreparingClient {
  return class extends PreparingClient {
    // biome-ignore lint/suspicious/noExplicitAny: as above
    override query(...args: any[]): any {
      const [text, values] = args;
      if (typeof text !== 'string') return super.query(...args);
      const execution: unknown = values?.[0];
      const statement =
        execution instanceof Execution ? { name: execution.statement.name, text: execution.statement.text } : { text };
      return trace(statement, () => super.query(...args));
    }
  };
}
