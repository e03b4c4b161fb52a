import { type Config, loadConfig } from '../config/index.ts';
import { CommandError } from './usage.ts';

type OpenServer = typeof import('../app/database.ts');
type OpenServerOf = Awaited<ReturnType<OpenServer['openServer']>>;
/** A pool of connections to the database of the service. */
type Db = ReturnType<OpenServerOf['open']>;
type OpenShards = Awaited<ReturnType<OpenServer['openShards']>>;
type OpenSchema = Awaited<ReturnType<OpenServer['openSchema']>>;

/** Runs work on the database of the service's settings, and closes it. */
export async function withDatabase<T>(
  options: { readonly poolSize: number; readonly statementTimeoutMs?: number },
  work: (db: Db, shards: OpenServerOf['shards']) => Promise<T>,
): Promise<T> {
  return await inOneLine(async (log) => {
    const { openServer } = await import('../app/database.ts');
    // A command reports an unreachable database at once; only serve waits for it.
    const server = await openServer({ ...loadConfig(), databaseWaitMs: 0 }, log, () => {});
    const db = server.open(options);
    try {
      return await work(db, server.shards);
    } finally {
      await db.destroy();
      await server.close();
    }
  });
}

/** Runs work on the schema of the database, which need not be up to date. */
export async function openingSchema<T>(config: Config, work: (schema: OpenSchema) => Promise<T>): Promise<T> {
  return await inOneLine(async (log) => {
    const { openSchema } = await import('../app/database.ts');
    const schema = await openSchema(config, log);
    try {
      return await work(schema);
    } finally {
      await schema.close();
    }
  });
}

/** Runs work on the shards of the database, which must be migrated. */
export async function openingShards<T>(config: Config, work: (shards: OpenShards) => Promise<T>): Promise<T> {
  return await inOneLine(async (log) => {
    const { openShards } = await import('../app/database.ts');
    const shards = await openShards(config, log);
    try {
      return await work(shards);
    } finally {
      await shards.close();
    }
  });
}

type Log = Parameters<OpenServer['openServer']>[1];

/**
 * Reports expected errors in one line. The database driver is loaded here, so that commands that
 * call the service start without it. Nothing is logged: stdout belongs to the command's output.
 */
async function inOneLine<T>(work: (log: Log) => Promise<T>): Promise<T> {
  const [{ createLog }, { inOneLine: lineOf, isForTheUser }] = await Promise.all([
    import('../observability/log.ts'),
    import('../app/start-error.ts'),
  ]);
  try {
    return await work(createLog({ level: 'silent', format: 'json' }));
  } catch (thrown) {
    const error = lineOf(thrown);
    if (isForTheUser(error)) throw new CommandError(error.message, { cause: error });
    throw error;
  }
}
