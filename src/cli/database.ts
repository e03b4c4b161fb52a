import { loadConfig } from '../config.ts';
import { CommandError } from './usage.ts';

/** The database, as an open server gives it. */
type Db = ReturnType<Awaited<ReturnType<typeof import('../open-server.ts').openServer>>['open']>;

/**
 * Works on the database of the service's settings, and leaves it. What only these commands need is loaded here: a caller's command starts without a database's driver.
 * Nothing is logged: what a command says goes to stdout, for pipes.
 */
export async function withDatabase<T>(
  options: { readonly poolSize: number; readonly statementTimeoutMs?: number },
  work: (db: Db) => Promise<T>,
): Promise<T> {
  const [{ createLog }, { isForTheUser, openServer }] = await Promise.all([
    import('../events.ts'),
    import('../open-server.ts'),
  ]);
  try {
    const server = await openServer(loadConfig(), createLog({ level: 'silent', format: 'json' }), () => {});
    const db = server.open(options);
    try {
      return await work(db);
    } finally {
      await db.destroy();
      await server.close();
    }
  } catch (error) {
    if (isForTheUser(error)) throw new CommandError(error.message, { cause: error });
    throw error;
  }
}
