import { type App, start } from '../../src/app/start.ts';
import { type Config, loadConfig } from '../../src/config/index.ts';
import { createLog } from '../../src/observability/log.ts';
import { serviceUrlOf } from './citus.ts';
import { createDatabase, shards } from './database.ts';

/** A service of one test file: its own database, a free port. */
export interface TestService extends App {
  readonly databaseUrl: string;
}

/**
 * Starts a service in this process. With `databaseUrl` a second instance shares the database of the
 * first.
 */
export async function startService(change: Partial<Config> & { databaseUrl?: string } = {}): Promise<TestService> {
  const { databaseUrl, ...settings } = change;
  const database = databaseUrl === undefined ? await createDatabase() : undefined;
  const url = databaseUrl ?? database?.url ?? '';
  const config: Config = {
    ...loadConfig({
      PORT: '0',
      DATABASE_URL: 'postgres://set/below',
      LOG_LEVEL: 'silent',
      SYSTEM_UIDS: '*',
      SHARDS: String(shards.count),
    }),
    database: { url: await serviceUrlOf(url) },
    // Requests of a test must succeed on a slow machine too.
    overloadWaitMs: 60_000,
    lockTimeoutMs: 60_000,
    statementTimeoutMs: 60_000,
    probeMs: 60_000,
    ...settings,
  };
  const app = await start(config, createLog({ level: config.logLevel, format: 'json' }));
  return {
    ...app,
    databaseUrl: url,
    async stop() {
      await app.stop();
      await database?.drop();
    },
  };
}
