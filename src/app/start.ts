import { setTimeout as delay } from 'node:timers/promises';
import { createKeys } from '../auth/api-keys.ts';
import { createIdentify } from '../auth/identity.ts';
import { createSystemUidCheck } from '../auth/system-uids.ts';
import { batchQueueStats } from '../batches/claims.sql.ts';
import { createChannels } from '../channels/channels.ts';
import type { Config } from '../config/index.ts';
import { limits } from '../limits.ts';
import { probeHeads } from '../messages/channel-keys.sql.ts';
import { createHook } from '../moderation/hook.ts';
import { createModeration } from '../moderation/moderation.ts';
import { createEvents, type Log } from '../observability/events.ts';
import { startLoop } from '../observability/loop.ts';
import { watchSources } from '../observability/readings.ts';
import { createRegistry } from '../observability/registry.ts';
import { watchRuntime } from '../observability/runtime.ts';
import type { Traces } from '../observability/tracing.ts';
import { startAdmissionController } from '../overload/admission-controller.ts';
import { FairScheduler } from '../overload/fair-scheduler.ts';
import { createClock, databaseClock } from '../postgres/database-clock.ts';
import { readLockWaits } from '../postgres/lock-waits.ts';
import { classifyPgError } from '../postgres/pg-errors.ts';
import { sweepLive } from '../postgres/pg-notify.ts';
import type { DatabaseOptions, PoolCounts } from '../postgres/pool.ts';
import { createReadiness } from '../postgres/readiness.ts';
import { createFixedWindowCounter } from '../rate-limits/fixed-window-counter.ts';
import { openCounter, sweepCounters } from '../rate-limits/postgres-counter.sql.ts';
import { createRates } from '../rate-limits/rate-limits.ts';
import { createInbox } from '../reading/inbox.ts';
import { createReadChannel } from '../reading/read-channel.ts';
import { type InboxCursor, sweepExpired, sweepInboxes, sweepOld } from '../retention/sweep.sql.ts';
import { startSweeper } from '../retention/sweeper.ts';
import { sweepTemporary } from '../retention/temporary-channels.sql.ts';
import { createCredentialWatch } from '../rpc/credential-watch.ts';
import { peerOf, rejectedRequestOf } from '../rpc/request-context.ts';
import { createWebhookBodies } from '../rpc/webhook-body.ts';
import { createAppend, createDryRun } from '../sending/append.ts';
import { createBroadcast } from '../sending/broadcast.ts';
import { createFindStored } from '../sending/find-stored.ts';
import type { Store } from '../sending/group-context.ts';
import { createHeldChannels, headLockWaitMs } from '../sending/held-channels.ts';
import { createDirect, createLanes } from '../sending/lanes.ts';
import { createSendBatch } from '../sending/send-batch.ts';
import { withSendMetrics } from '../sending/send-metrics.ts';
import { createBodyBudget } from '../server/body-budget.ts';
import { createServer } from '../server/dispatch.ts';
import { createLoadShedding } from '../server/load-shedding.ts';
import { createOriginCheck } from '../server/origin-check.ts';
import { listen } from '../server/port.ts';
import { createRoutes } from '../server/routes.ts';
import { createRenderingScheduler } from '../templates/render.ts';
import { createTemplates } from '../templates/templates.ts';
import { standingOfWebhooks } from '../webhooks/webhooks.sql.ts';
import { openServer } from './database.ts';
import { version } from './version.ts';
import { wireBatches } from './wire-batches.ts';
import { wireTails } from './wire-tails.ts';
import { wireWebhooks } from './wire-webhooks.ts';

/** A running service. */
export interface App {
  readonly url: string;
  /** Where its messages are kept, in words. */
  readonly database: string;
  /** Its metrics, as Prometheus reads them. */
  metrics(): Promise<string>;
  /** Stops taking calls, finishes those in flight within the grace, closes the database. */
  stop(): Promise<void>;
}

/** A connection of its own for probes, which do not wait for it for long: their own time-out is a second where nobody sets it (Kubernetes). */
const probeMs = 900;
/** Most bodies take no longer to come. */
const bodyGraceMs = 1000;
/** How often each instance looks whether the rules of moderation have changed. */
const reloadMs = 1000;
/** How often the offset of this process's clock to the database's is measured: a machine that was suspended is right again after this long. */
const measureMs = 2000;
/** Temporary channels that are looked at in one step of the sweeper. */
const temporaryAtOnce = 50;
/** Entries of the inboxes of commands that are looked at in a run of the sweeper. */
const inboxesAtOnce = 2000;
const inboxesStart: InboxCursor = { uid: '', commandSeq: 0 };

/**
 * The only wiring: settings in, a running service out. What was started is stopped again when a later step fails. `allMetrics`: where this process is one of several on
 * a port, the metrics of them all.
 */
export async function start(config: Config, log: Log, allMetrics?: () => Promise<string>): Promise<App> {
  const onStop: (() => Promise<unknown>)[] = [];
  /** One grace for all that waits for something to end. */
  let graceEnds = 0;
  const graceLeft = () => Math.max(0, graceEnds - performance.now());
  const graceBegins = () => {
    graceEnds = performance.now() + config.shutdownGraceMs;
  };
  /** Every step is made, whatever becomes of the others; what failed first is thrown. */
  const stopAll = async () => {
    graceBegins();
    const failed: unknown[] = [];
    for (const step of onStop.splice(0).reverse()) await step().catch((error: unknown) => failed.push(error));
    if (failed.length > 0) throw failed[0];
  };
  try {
    const registry = createRegistry();
    onStop.push(() => registry.close());
    const unwatch = watchRuntime(registry, { version });
    onStop.push(async () => unwatch());
    const traces = config.traces && (await openTraces(config.traces, log));
    if (traces !== undefined) onStop.push(() => traces.close());
    const events = createEvents(log, {
      registry,
      accessLog: config.accessLog,
      traces,
      isTrouble: (error) => classifyPgError(error) !== 'defect',
    });
    const database = await openServer(config, log, events.databaseConnectionLost, traces?.statement);
    onStop.push(() => database.close());
    const pools = new Map<string, () => PoolCounts>();
    const inPool = (name: string): Pick<DatabaseOptions, 'onPool'> => ({ onPool: (count) => pools.set(name, count) });
    // What is read has connections of its own, so that neither reading nor sending can take all of the other's.
    const forReads = Math.max(1, Math.floor(config.poolSize / 2));
    const db = database.open({ poolSize: Math.max(1, config.poolSize - forReads), ...inPool('main') });
    onStop.push(() => db.destroy());
    const reads = database.open({ poolSize: forReads, ...inPool('reads') });
    onStop.push(() => reads.destroy());

    const { systemUids } = config;
    const rules = {
      systemUids: systemUids === 'all' ? { has: () => true } : new Set(systemUids),
      systemReaders: new Set(systemUids === 'all' ? [] : systemUids),
      enforcePersonAllowlist: config.personAllowlist,
    };
    const clock = await createClock({ ask: () => databaseClock(db), onClocksApart: events.clocksApart });
    // A measurement that fails changes nothing: the monotonic clock goes on, and whatever needs the database reports that it is away.
    const measuring = startLoop({ everyMs: measureMs, run: clock.measure, onError: () => {} });
    onStop.push(() => measuring.stop());
    const { now } = clock;
    const opened = wireTails(database, { db, reads }, rules, events, now);
    onStop.push(() => opened.close());
    const { tails, live } = opened;
    const hooks = await wireWebhooks(config, { db, bodies: createWebhookBodies(), events, now });
    onStop.push(() => hooks.close(graceLeft()));
    const store: Store = {
      ...opened.store,
      announces: hooks.webhooks.any,
      onStored(keys) {
        opened.store.onStored?.(keys);
        hooks.nudge();
      },
    };
    const held = createHeldChannels({
      probe: (channelKeys) => probeHeads(db, channelKeys),
      lockTimeoutMs: config.lockTimeoutMs,
    });
    const openAppend = () => {
      const appendOptions = {
        lockTimeoutMs: config.lockTimeoutMs,
        holdsAny: held.holdsAny,
        // Half of what a caller waits: who is told to come again has to hear it in time.
        retryForMs: config.requestTimeoutMs / 2,
        now,
        watch: { ended: events.commitEnded, repeated: events.commitRepeated, locked: events.headsLocked },
      };
      if (config.lanes === 0)
        return { append: createDirect(createAppend(store, appendOptions), held), waiting: undefined };
      const writers = database.open({
        poolSize: config.lanes,
        lockTimeoutMs: Math.min(config.lockTimeoutMs, headLockWaitMs),
        ...inPool('lanes'),
      });
      onStop.push(() => writers.destroy());
      const lanes = createLanes(createAppend({ ...store, db: writers }, appendOptions), {
        lanes: config.lanes,
        maxWaitMs: config.requestTimeoutMs,
        held,
        onGroup: events.groupEnded,
        trace: traces?.group,
      });
      onStop.push(() => lanes.close());
      return lanes;
    };
    const { append, waiting } = openAppend();
    onStop.push(async () => held.close());
    const hook =
      config.moderationHook &&
      createHook({
        ...config.moderationHook,
        onCall: events.moderationHookCalled,
        ...(traces === undefined ? {} : { headers: traces.outgoing }),
      });
    const overload = startAdmissionController({ waitMs: config.overloadWaitMs, onShed: events.callsShed });
    onStop.push(async () => overload.stop());
    const moderation = createModeration(db, hook, { turns: new FairScheduler({ aside: overload.aside }), now });
    onStop.push(() => moderation.close());
    await moderation.reload();
    const reloading = startLoop({ everyMs: reloadMs, run: moderation.reload, ...events.loop('moderation_reload') });
    onStop.push(() => reloading.stop());
    let inboxes = inboxesStart;
    const sweeper = startSweeper({
      everyMs: config.sweepIntervalMs,
      retention: config.retention,
      async sweepExpired(limit, now) {
        const removed = await sweepExpired(db, limit, now);
        events.messagesRemoved('expired', removed);
        return removed;
      },
      async sweepOld(...bite) {
        const swept = await sweepOld(db, ...bite);
        events.messagesRemoved('retention', swept.removed);
        return swept;
      },
      async sweepTemporary(at) {
        return await sweepTemporary(db, at, temporaryAtOnce);
      },
      async sweepInboxes() {
        inboxes = (await sweepInboxes(db, inboxes, inboxesAtOnce)) ?? inboxesStart;
      },
      sweepLive: (longerThanMs) => sweepLive(db, longerThanMs),
      now,
      ...events.loop('sweeper'),
    });
    onStop.push(() => sweeper.stop());
    const templates = createTemplates(db, now, createRenderingScheduler(overload.aside));
    const patienceMs = config.probeMs ?? probeMs;
    const probing = database.open({ poolSize: 1, connectTimeoutMs: patienceMs, statementTimeoutMs: patienceMs });
    onStop.push(() => probing.destroy());
    const readiness = createReadiness(probing, { patienceMs });
    const keys = createKeys(db, now);
    const counters = config.rates.store === 'postgres' ? database.openCounters() : undefined;
    if (counters !== undefined) {
      onStop.push(() => counters.end());
      const sweeping = startLoop({
        everyMs: config.sweepIntervalMs,
        run: () => sweepCounters(db),
        ...events.loop('rate_limit_sweeper'),
      });
      onStop.push(() => sweeping.stop());
      pools.set('rates', () => ({
        most: counters.options.max,
        open: counters.totalCount,
        idle: counters.idleCount,
        waiting: counters.waitingCount,
      }));
    }
    const rates = createRates(config.rates, (name, quota) =>
      counters === undefined
        ? createFixedWindowCounter(quota)
        : openCounter(name, quota, counters, createFixedWindowCounter(quota)),
    );
    const sendUncounted = createSendBatch({
      async append(batch, signal) {
        const began = performance.now();
        const outcomes = await append(batch, signal);
        if (outcomes.some(({ kind }) => kind !== 'refused')) overload.stored(performance.now() - began);
        return outcomes;
      },
      dryRun: createDirect(createDryRun(store)),
      rates,
      moderate: moderation.moderate,
      deliver: live.send,
      templates,
    });
    const sendBatch = withSendMetrics(sendUncounted, events.batchEnded);
    watchSources(registry, {
      pools,
      lanes: waiting,
      laneMessages: limits.laneMessages,
      tails: tails.counts,
      isListening: opened.isListening,
      lockWaits: async () => {
        const { waiting: connections, longestSeconds } = await readLockWaits(db);
        const { longestMs } = held.stats();
        return { waiting: connections, longestSeconds: Math.max(longestSeconds, longestMs / 1000) };
      },
      batchQueue: () => batchQueueStats(db, now()),
      webhookQueue: () => standingOfWebhooks(db, now()),
    });
    const channels = createChannels(store, opened.told, now);
    const identify = config.asks
      ? createIdentify(config.identity, {
          identifyKey: keys.identify,
          isSystemUid: createSystemUidCheck(systemUids === 'all' ? [] : systemUids, channels.listSystemUids),
          now,
          onIssuerFault: events.issuerKeysFailed,
        })
      : undefined;
    const credentials = createCredentialWatch(identify, now);
    onStop.push(async () => credentials.close());
    const background = await wireBatches({
      database,
      db,
      config,
      sendBatch,
      templates,
      findStored: createFindStored(store),
      events,
      now,
    });
    onStop.push(() => background.close(graceLeft()));
    const { batches, batchWatch } = background;
    const closing = new AbortController();
    const routes = createRoutes(
      {
        version,
        identify,
        credentials,
        metrics: { metrics: allMetrics ?? registry.text, identify: config.metricsOpen ? undefined : identify },
        requestTimeoutMs: config.requestTimeoutMs,
        sendBatch,
        broadcast: createBroadcast(sendBatch),
        readChannel: createReadChannel({ ...store, db: reads }, now),
        channels,
        tails,
        inbox: createInbox({ ...store, db: reads }, now),
        moderation,
        templates,
        batches,
        batchWatch,
        webhooks: hooks.webhooks,
        readiness,
        closing: closing.signal,
        systemUids: systemUids === 'all' ? [] : systemUids,
      },
      events,
    );
    const guard = createOriginCheck({ open: config.open, allowedOrigins: config.allowedOrigins });
    const intake = createBodyBudget({
      mostBytes: limits.bodiesBytes,
      graceMs: bodyGraceMs,
      isStream: routes.isStream,
      peerOf,
      onCut: (request) => events.requestRejected('overloaded', rejectedRequestOf(request)),
    });
    const listener = await listen({
      host: config.host,
      port: config.port,
      ...(config.tls === undefined ? {} : { tls: config.tls }),
      handler: createServer(guard, createLoadShedding(overload, routes.methodOf), intake, routes),
    });
    onStop.push(() => listener.close(graceLeft()));
    // Before calls are refused: a tail has no end of its own to wait for.
    onStop.push(async () => {
      closing.abort();
      tails.close();
      batchWatch.close();
      readiness.close();
    });
    // First of all: who balances the load is told, and gets time to hear of it.
    onStop.push(async () => {
      await readiness.drain();
      await delay(config.drainDelayMs);
      graceBegins();
    });
    return { url: listener.url, database: database.words, metrics: registry.text, stop: stopAll };
  } catch (error) {
    await stopAll().catch(() => {});
    throw error;
  }
}

/** OpenTelemetry's SDK is read only where traces are on. */
async function openTraces(settings: NonNullable<Config['traces']>, log: Log): Promise<Traces> {
  const telemetry = await import('../observability/traces.ts');
  return await telemetry.openTraces({ ...settings, version }, (error) =>
    log.warn({ err: error }, 'traces could not be exported'),
  );
}
