import type { Config } from './config.ts';
import { createGuard } from './edge/guard.ts';
import { listen } from './edge/listen.ts';
import { createRoutes } from './edge/routes.ts';
import { createServer } from './edge/server.ts';
import { createEvents, type Log } from './events.ts';
import { createAppend, createRehearsal } from './service/append.ts';
import { createBroadcast } from './service/broadcast.ts';
import { createChannels } from './service/channels.ts';
import type { Store } from './service/group.ts';
import { createDirect, createLanes } from './service/lanes.ts';
import { createReadChannel } from './service/read-channel.ts';
import { createSendBatch } from './service/send-batch.ts';
import { ChannelKeys } from './storage/channel.ts';
import {
  type DatabaseOptions,
  type Db,
  openDatabase,
  placeOf,
  type ServerFacts,
  serverFacts,
} from './storage/database.ts';
import { startEmbedded } from './storage/embedded/index.ts';
import { migrate } from './storage/migrate.ts';
import { version } from './version.ts';

/** The service could not be started; the message is one line for the one who starts it. */
export class StartError extends Error {}

/** A running service. */
export interface App {
  readonly url: string;
  /** Where its messages are kept, in words. */
  readonly database: string;
  /** Stops taking calls, finishes those in flight within the grace, closes the database. */
  stop(): Promise<void>;
}

const oldestPostgres = 150_000;

/** The only wiring: settings in, a running service out. What was started is stopped again when a later step fails. */
export async function start(config: Config, log: Log): Promise<App> {
  const events = createEvents(log);
  const undo: (() => Promise<unknown>)[] = [];
  const stopAll = async () => {
    for (const step of undo.splice(0).reverse()) await step();
  };
  try {
    const { connection, words } = await findDatabase(config, log, undo);
    const open = (more: Partial<DatabaseOptions>) =>
      openDatabase({
        connection,
        poolSize: config.poolSize,
        lockTimeoutMs: config.lockTimeoutMs,
        statementTimeoutMs: config.statementTimeoutMs,
        connectTimeoutMs: 5000,
        onConnectionError: events.databaseConnectionLost,
        ...more,
      });
    const migrations = open({ poolSize: 2, lockTimeoutMs: 0, statementTimeoutMs: 0 });
    const facts = await prepareDatabase(migrations, log).finally(() => migrations.destroy());
    const db = open({});
    undo.push(() => db.destroy());

    const channelKeys = new ChannelKeys(db);
    const { systemUids } = config;
    const rules = {
      systemUids: systemUids === 'all' ? { has: () => true } : new Set(systemUids),
      enforcePersonAllowlist: config.personAllowlist,
    };
    const store: Store = { db, channelKeys, rules };
    const openAppend = () => {
      if (config.lanes === 0) return createDirect(createAppend(store));
      const writers = open({ poolSize: config.lanes });
      undo.push(() => writers.destroy());
      const lanes = createLanes(createAppend({ db: writers, channelKeys, rules }), {
        lanes: config.lanes,
        maxWaitMs: config.requestTimeoutMs,
      });
      undo.push(() => lanes.close());
      return lanes.append;
    };
    const sendBatch = createSendBatch(openAppend(), createDirect(createRehearsal(store)));
    const routes = createRoutes(
      {
        version,
        requestTimeoutMs: config.requestTimeoutMs,
        sendBatch,
        broadcast: createBroadcast(sendBatch),
        readChannel: createReadChannel(store),
        channels: createChannels(store),
        systemUids: systemUids === 'all' ? [] : systemUids,
      },
      events,
    );
    const guard = createGuard({ open: config.open, allowedOrigins: config.allowedOrigins });
    const listener = await listen({
      host: config.host,
      port: config.port,
      ...(config.tls === undefined ? {} : { tls: config.tls }),
      handler: createServer(guard, routes),
    });
    undo.push(() => listener.close(config.shutdownGraceMs));
    return { url: listener.url, database: `PostgreSQL ${facts.version}, ${words}`, stop: stopAll };
  } catch (error) {
    await stopAll();
    throw error;
  }
}

/** The server that the settings name, or the embedded one. */
async function findDatabase(
  config: Config,
  log: Log,
  undo: (() => Promise<unknown>)[],
): Promise<{ connection: DatabaseOptions['connection']; words: string }> {
  if ('url' in config.database) {
    const { url } = config.database;
    return { connection: { url }, words: `at ${placeOf(url)} (DATABASE_URL)` };
  }
  const embedded = await startEmbedded({ ...config.database, log });
  undo.push(() => embedded.stop());
  const { host, port, user, database } = embedded;
  return {
    connection: { host, port, user, database },
    words: `embedded, in ${embedded.dataDir}${embedded.adopted ? ' (was still running)' : ''}`,
  };
}

/** Reaches the server, refuses one that is too old, says when it may lose commits, and brings the schema up to date. */
async function prepareDatabase(db: Db, log: Log): Promise<ServerFacts> {
  let facts: ServerFacts;
  try {
    facts = await serverFacts(db);
  } catch (error) {
    throw new StartError(`the database cannot be reached: ${textOf(error)}. Is DATABASE_URL right, and the server up?`);
  }
  if (facts.versionNumber < oldestPostgres)
    throw new StartError(`PostgreSQL ${facts.version} is too old: 15 or later is needed`);
  if (facts.lossy.length > 0)
    log.warn(
      { settings: facts.lossy },
      'the database acknowledges commits before they are on disk: a crash of its machine may lose messages',
    );
  const applied = await migrate(db);
  if (applied.length > 0) log.info({ migrations: applied }, 'the schema was brought up to date');
  return facts;
}

/** Some errors of the socket layer have their words inside: one for each address that was tried. */
function textOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === '') return error.errors.map(textOf).join(', ');
  return error instanceof Error ? error.message : String(error);
}
