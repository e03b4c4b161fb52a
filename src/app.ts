import { startLoop } from './background/loop.ts';
import { startSweeper } from './background/sweeper.ts';
import type { Config } from './config.ts';
import { createGuard } from './edge/guard.ts';
import { createIdentify } from './edge/identity.ts';
import { listen } from './edge/listen.ts';
import { createRoutes } from './edge/routes.ts';
import { createServer } from './edge/server.ts';
import { createShed } from './edge/shed.ts';
import { createEvents, type Log } from './events.ts';
import { openServer } from './open-server.ts';
import { openTails } from './open-tails.ts';
import { createAppend, createRehearsal } from './service/append.ts';
import { createBroadcast } from './service/broadcast.ts';
import { createChannels } from './service/channels.ts';
import { createInbox } from './service/inbox.ts';
import { createKeys } from './service/keys.ts';
import { createDirect, createLanes } from './service/lanes.ts';
import { createModeration } from './service/moderation.ts';
import { createHook } from './service/moderation-hook.ts';
import { startOverload } from './service/overload.ts';
import { createRates } from './service/rates.ts';
import { createReadChannel } from './service/read-channel.ts';
import { createSendBatch } from './service/send-batch.ts';
import { createTemplates } from './service/templates.ts';
import { createWindows } from './service/windows.ts';
import { openCounter } from './storage/counter.ts';
import { databaseClock, sweepExpired, sweepOld } from './storage/sweep.ts';
import { sweepLive } from './storage/wakeup.ts';
import { version } from './version.ts';

/** A running service. */
export interface App {
  readonly url: string;
  /** Where its messages are kept, in words. */
  readonly database: string;
  /** Stops taking calls, finishes those in flight within the grace, closes the database. */
  stop(): Promise<void>;
}

/** How often each instance looks whether the rules of moderation have changed. */
const reloadMs = 1000;

/** The only wiring: settings in, a running service out. What was started is stopped again when a later step fails. */
export async function start(config: Config, log: Log): Promise<App> {
  const events = createEvents(log);
  const undo: (() => Promise<unknown>)[] = [];
  const stopAll = async () => {
    for (const step of undo.splice(0).reverse()) await step();
  };
  try {
    const database = await openServer(config, log, events.databaseConnectionLost);
    undo.push(() => database.close());
    const db = database.open({});
    undo.push(() => db.destroy());

    const { systemUids } = config;
    const rules = {
      systemUids: systemUids === 'all' ? { has: () => true } : new Set(systemUids),
      systemReaders: new Set(systemUids === 'all' ? [] : systemUids),
      enforcePersonAllowlist: config.personAllowlist,
    };
    const opened = openTails(database, db, rules, events);
    undo.push(() => opened.close());
    const { store, tails, live } = opened;
    // Half of what a caller waits: who is told to come again has to hear it in time.
    const retryForMs = config.requestTimeoutMs / 2;
    const openAppend = () => {
      if (config.lanes === 0) return { append: createDirect(createAppend(store, retryForMs)), waitMs: () => 0 };
      const writers = database.open({ poolSize: config.lanes });
      undo.push(() => writers.destroy());
      const lanes = createLanes(createAppend({ ...store, db: writers }, retryForMs), {
        lanes: config.lanes,
        maxWaitMs: config.requestTimeoutMs,
      });
      undo.push(() => lanes.close());
      return lanes;
    };
    const hook =
      config.moderationHook && createHook({ ...config.moderationHook, onError: events.moderationHookFailed });
    const moderation = createModeration(db, hook);
    await moderation.reload();
    const reloading = startLoop({ everyMs: reloadMs, run: moderation.reload, onError: events.loopFailed });
    undo.push(() => reloading.stop());
    const sweeper = startSweeper({
      everyMs: config.sweepIntervalMs,
      retention: config.retention,
      sweepExpired: (limit, now) => sweepExpired(db, limit, now),
      sweepOld: (...bite) => sweepOld(db, ...bite),
      sweepLive: (longerThanMs) => sweepLive(db, longerThanMs),
      now: () => Date.now(),
      databaseClock: () => databaseClock(db),
      onClocksApart: events.clocksApart,
      onError: events.loopFailed,
    });
    undo.push(() => sweeper.stop());
    const templates = createTemplates(db);
    const keys = createKeys(db);
    const counters = config.rates.store === 'postgres' ? database.openCounters() : undefined;
    if (counters !== undefined) undo.push(() => counters.end());
    const rates = createRates(config.rates, (name, quota) =>
      counters === undefined ? createWindows(quota) : openCounter(name, quota, counters),
    );
    const { append, waitMs } = openAppend();
    const overload = startOverload({ targetMs: config.overloadWaitMs, waitMs, onShed: events.callsShed });
    undo.push(async () => overload.stop());
    const sendBatch = createSendBatch({
      append,
      rehearse: createDirect(createRehearsal(store)),
      rates,
      moderate: moderation.moderate,
      deliver: live.send,
      templates,
    });
    const routes = createRoutes(
      {
        version,
        identify: config.asks ? createIdentify(config.identity, keys.identify) : undefined,
        requestTimeoutMs: config.requestTimeoutMs,
        sendBatch,
        broadcast: createBroadcast(sendBatch),
        readChannel: createReadChannel(store),
        channels: createChannels(store, opened.told),
        tails,
        inbox: createInbox(store),
        moderation,
        templates,
        systemUids: systemUids === 'all' ? [] : systemUids,
      },
      events,
    );
    const guard = createGuard({ open: config.open, allowedOrigins: config.allowedOrigins });
    const listener = await listen({
      host: config.host,
      port: config.port,
      ...(config.tls === undefined ? {} : { tls: config.tls }),
      handler: createServer(guard, createShed(overload, routes.methodOf), routes),
    });
    undo.push(() => listener.close(config.shutdownGraceMs));
    // First of all: a tail has no end of its own to wait for.
    undo.push(async () => tails.close());
    return { url: listener.url, database: database.words, stop: stopAll };
  } catch (error) {
    await stopAll();
    throw error;
  }
}
