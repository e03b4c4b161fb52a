import { type Config, loadConfig } from '../config/index.ts';
import { CommandError } from './usage.ts';

type OpenServer = typeof import('../app/database.ts');
/** The database, as an open server gives it. */
type Db = ReturnType<Awaited<ReturnType<OpenServer['openServer']>>['open']>;
type OpenSchema = Awaited<ReturnType<OpenServer['openSchema']>>;

/** Works on the database of the service's settings, and leaves it. */
export async function withDatabase<T>(
  options: { readonly poolSize: number; readonly statementTimeoutMs?: number },
  work: (db: Db) => Promise<T>,
): Promise<T> {
  return await inOneLine(async (log) => {
    const { openServer } = await import('../app/database.ts');
    // Who types a command is told at once; only a service waits for its database.
    const server = await openServer({ ...loadConfig(), databaseWaitMs: 0 }, log, () => {});
    const db = server.open(options);
    try {
      return await work(db);
    } finally {
      await db.destroy();
      await server.close();
    }
  });
}

/** Works on the schema of the database, which need not be up to date. */
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

type Log = Parameters<OpenServer['openServer']>[1];

/** What only these commands need is loaded here: a caller's command starts without a database's driver. Nothing is logged: what a command says goes to stdout, for pipes. */
async function inOneLine<T>(work: (log: Log) => Promise<T>): Promise<T> {
  const [{ createLog }, { inOneLine: lineOf, isForTheUser }] = await Promise.all([
    import('../observability/log.ts'),
    import('../app/database.ts'),
  ]);
  try {
    return await work(createLog({ level: 'silent', format: 'json' }));
  } catch (thrown) {
    const error = lineOf(thrown);
    if (isForTheUser(error)) throw new CommandError(error.message, { cause: error });
    throw error;
  }
}
