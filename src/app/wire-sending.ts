import { probeHeads } from '../messages/channel-heads.sql.ts';
import { createHook, type ModerationHook } from '../moderation/hook.ts';
import { createModeration, type Moderation } from '../moderation/moderation.ts';
import { startLoop } from '../observability/loop.ts';
import { type AdmissionController, startAdmissionController } from '../overload/admission-controller.ts';
import { FairScheduler } from '../overload/fair-scheduler.ts';
import { mapByShard } from '../postgres/over-shards.ts';
import { createFixedWindowCounter } from '../rate-limits/fixed-window-counter.ts';
import { openCounter, sweepCounters } from '../rate-limits/postgres-counter.sql.ts';
import { createRates, type Rates } from '../rate-limits/rate-limits.ts';
import { createAppend, createDryRun } from '../sending/append.ts';
import type { Store } from '../sending/group-context.ts';
import { createHeldChannels, type HeldChannels, headLockWaitMs } from '../sending/held-channels.ts';
import { createDirect, createLanes, type Lanes } from '../sending/lanes.ts';
import { createSendBatch, type SendBatch } from '../sending/send-batch.ts';
import { withSendMetrics } from '../sending/send-metrics.ts';
import { createShardRoute } from '../sending/shard-route.ts';
import { createRenderingScheduler } from '../templates/render.ts';
import { createTemplates, type Templates } from '../templates/templates.ts';
import type { Foundation } from './foundation.ts';
import type { WiredTails } from './wire-tails.ts';

/**
 * Sending, and what a send asks on its way: templates, rate limits, moderation, admission control.
 */
export interface WiredSending {
  readonly sendBatch: SendBatch;
  /** Stores messages of the service itself. */
  readonly append: Lanes['append'];
  readonly rates: Rates;
  readonly overload: AdmissionController;
  readonly moderation: Moderation;
  readonly templates: Templates;
  /** Messages that wait in each lane; undefined without lanes. */
  readonly waiting: Lanes['waiting'] | undefined;
  readonly held: HeldChannels;
}

/** Time between checks of each instance for changed moderation rules. */
const reloadRulesEveryMs = 1000;

export async function wireSending(
  foundation: Foundation,
  store: Store,
  ephemeral: WiredTails['ephemeral'],
): Promise<WiredSending> {
  const { config, db, events, lifecycle, now, shards } = foundation;
  const held = createHeldChannels({
    probe: (channelKeys) => mapByShard(db, shards, channelKeys, probeHeads),
    lockTimeoutMs: config.lockTimeoutMs,
  });
  const { append, waiting } = openAppend(foundation, store, held);
  lifecycle.onStop('held channels', () => held.close());

  const overload = startAdmissionController({ waitMs: config.overloadWaitMs, onShed: events.callsShed });
  lifecycle.onStop('admission controller', () => overload.stop());
  const moderation = createModeration(store, openHook(foundation), {
    scheduler: new FairScheduler({ aside: overload.aside }),
    now,
  });
  lifecycle.onStop('moderation', () => moderation.close());
  await moderation.reload();
  const reloading = startLoop({
    everyMs: reloadRulesEveryMs,
    run: moderation.reload,
    ...events.loop('moderation_reload'),
  });
  lifecycle.onStop('moderation reload', () => reloading.stop());

  const templates = createTemplates(db, now, createRenderingScheduler(overload.aside));
  const rates = openRateLimits(foundation);
  const sendBatch = createSendBatch({
    async append(batch, signal) {
      const startedAt = performance.now();
      const outcomes = await append(batch, signal);
      if (outcomes.some(({ kind }) => kind !== 'refused')) overload.stored(performance.now() - startedAt);
      return outcomes;
    },
    dryRun: createDirect(createDryRun(store)),
    rates,
    moderate: moderation.moderate,
    deliver: ephemeral.send,
    templates,
  });
  return {
    append,
    sendBatch: withSendMetrics(sendBatch, events.batchEnded),
    rates,
    overload,
    moderation,
    templates,
    waiting,
    held,
  };
}

/** The append through group commit in lanes, or with LANES=0 one transaction per batch. */
function openAppend(
  { config, events, lifecycle, now, openPool, traces }: Foundation,
  store: Store,
  held: HeldChannels,
): Pick<Lanes, 'append'> & { readonly waiting: Lanes['waiting'] | undefined } {
  const options = {
    lockTimeoutMs: config.lockTimeoutMs,
    holdsAny: held.holdsAny,
    // Half of what a caller waits, so that STORE_BUSY reaches it in time.
    retryForMs: config.requestTimeoutMs / 2,
    now,
    watch: { ended: events.commitEnded, repeated: events.commitRepeated, locked: events.headsLocked },
  };
  const { count } = store.shards;
  const route = count === 1 ? {} : { route: createShardRoute(store) };
  if (config.lanes === 0)
    return { append: createDirect(createAppend(store, options), { held, ...route }), waiting: undefined };
  const lockTimeoutMs = Math.min(config.lockTimeoutMs, headLockWaitMs);
  // With several shards each has a lane, and one more takes what belongs to several shards.
  const laneCount = count === 1 ? config.lanes : count + 1;
  const writers = openPool('lanes', { poolSize: Math.min(config.lanes, laneCount), lockTimeoutMs });
  const pipelines = config.lanes >= laneCount;
  const lanes = createLanes(createAppend({ ...store, db: writers }, { ...options, pipelines }), {
    lanes: laneCount,
    maxWaitMs: config.requestTimeoutMs,
    held,
    ...route,
    onGroup: events.groupEnded,
    trace: traces?.group,
  });
  lifecycle.onStop('lanes', () => lanes.close());
  return lanes;
}

function openHook({ config, events, traces }: Foundation): ModerationHook | undefined {
  if (config.moderationHook === undefined) return undefined;
  return createHook({
    ...config.moderationHook,
    onCall: events.moderationHookCalled,
    ...(traces === undefined ? {} : { headers: traces.outgoing }),
  });
}

/** Rate limits counted per process, or in PostgreSQL by all instances together. */
function openRateLimits({ config, database, db, events, lifecycle, pools }: Foundation): Rates {
  if (config.rates.store !== 'postgres')
    return createRates(config.rates, (_name, quota) => createFixedWindowCounter(quota));
  const counters = database.openCounters();
  lifecycle.onStop('rate limit counters', () => counters.end());
  const sweeping = startLoop({
    everyMs: config.sweepIntervalMs,
    run: () => sweepCounters(db),
    ...events.loop('rate_limit_sweeper'),
  });
  lifecycle.onStop('rate limit sweeper', () => sweeping.stop());
  pools.set('rates', () => ({
    most: counters.options.max,
    open: counters.totalCount,
    idle: counters.idleCount,
    waiting: counters.waitingCount,
  }));
  return createRates(config.rates, (name, quota) =>
    openCounter(name, quota, counters, createFixedWindowCounter(quota)),
  );
}
