import type { Config } from '../config/index.ts';
import type { PermissionRules } from '../messages/permission.ts';
import { ServiceError } from '../messages/service-error.ts';
import { errorText } from '../observability/error-text.ts';
import { createEvents, type Events } from '../observability/events/index.ts';
import type { Log } from '../observability/log.ts';
import { startLoop } from '../observability/loop.ts';
import { createRegistry, type Registry } from '../observability/registry.ts';
import { watchRuntime } from '../observability/runtime.ts';
import type { Traces } from '../observability/tracing.ts';
import { createClock, databaseClock } from '../postgres/database-clock.ts';
import { classifyPgError } from '../postgres/pg-errors.ts';
import type { DatabaseOptions, PoolCounts } from '../postgres/pool.ts';
import type { Db } from '../postgres/schema.ts';
import type { ShardLayout } from '../postgres/shards.ts';
import { type OpenServer, openServer } from './database.ts';
import type { Lifecycle } from './lifecycle.ts';
import { version } from './version.ts';

/**
 * What every capability is built on: settings, log and metrics, the database, its clock, and how
 * parts are stopped.
 */
export interface Foundation {
  readonly config: Config;
  readonly lifecycle: Lifecycle;
  readonly registry: Registry;
  readonly traces: Traces | undefined;
  readonly events: Events;
  readonly database: OpenServer;
  /** Connections of calls and background work that write. */
  readonly db: Db;
  /** Connections of calls that read. */
  readonly reads: Db;
  /** How the tables of channels are divided. */
  readonly shards: ShardLayout;
  /** Counts of all pools that metrics report, by the pool's name. */
  readonly pools: Map<string, () => PoolCounts>;
  /** Opens a pool that metrics report, and closes it on stop. */
  openPool(name: string, options: Partial<DatabaseOptions>): Db;
  readonly rules: PermissionRules;
  /** Database time in milliseconds since 1970, without a round trip. */
  readonly now: () => number;
}

/**
 * Time between measurements of the offset to the database's clock: bounds how long a resumed
 * machine is wrong.
 */
const measureClockEveryMs = 2000;

/** Opens what every capability is built on. */
export async function openFoundation(config: Config, log: Log, lifecycle: Lifecycle): Promise<Foundation> {
  const registry = createRegistry();
  lifecycle.onStop('metrics', () => registry.close());
  lifecycle.onStop('runtime metrics', watchRuntime(registry, { version }));
  const traces = config.traces && (await openTraces(config.traces, log));
  if (traces !== undefined) lifecycle.onStop('traces', () => traces.close());
  const events = createEvents(log, {
    registry,
    accessLog: config.accessLog,
    traces,
    isExpected: (error) => error instanceof ServiceError || classifyPgError(error) !== 'defect',
  });

  const database = await openServer(config, log, events.databaseConnectionLost, traces?.statement);
  lifecycle.onStop('database', () => database.close());
  const pools = new Map<string, () => PoolCounts>();
  const openPool = (name: string, options: Partial<DatabaseOptions>): Db => {
    const pool = database.open({
      ...options,
      onPool: (counts) => pools.set(name, counts),
      onWorkerPool: (counts) => pools.set(`${name}_worker`, counts),
    });
    lifecycle.onStop(`pool ${name}`, () => pool.destroy());
    return pool;
  };
  // Reads have connections of their own, so that neither reading nor sending can take all of the
  // other's.
  const readConnections = Math.max(1, Math.floor(config.poolSize / 2));
  const db = openPool('main', { poolSize: Math.max(1, config.poolSize - readConnections) });
  const reads = openPool('reads', { poolSize: readConnections });

  const clock = await createClock({ ask: () => databaseClock(db), onClocksApart: events.clocksApart });
  // A failed measurement keeps the last offset: the monotonic clock goes on, and every other user
  // of the database reports the outage.
  const measuring = startLoop({ everyMs: measureClockEveryMs, run: clock.measure, onError: () => {} });
  lifecycle.onStop('database clock', () => measuring.stop());
  const rules = permissionRules(config);
  const { shards } = database;
  return {
    config,
    lifecycle,
    registry,
    traces,
    events,
    database,
    db,
    reads,
    shards,
    pools,
    openPool,
    rules,
    now: clock.now,
  };
}

function permissionRules({ systemUids, personAllowlist }: Config): PermissionRules {
  return {
    systemUids: systemUids === 'all' ? { has: () => true } : new Set(systemUids),
    systemReaders: new Set(systemUids === 'all' ? [] : systemUids),
    enforcePersonAllowlist: personAllowlist,
  };
}

/** OpenTelemetry's SDK is loaded only where traces are on. */
async function openTraces(settings: NonNullable<Config['traces']>, log: Log): Promise<Traces> {
  const telemetry = await import('../observability/traces.ts');
  return await telemetry.openTraces({ ...settings, version }, (error) =>
    log('traceExportFailed', { cause: errorText(error) }),
  );
}
