/**
 * Starts the service: settings in, a running service out. The only place where capabilities are
 * wired together.
 *
 * - `foundation.ts`: log, metrics, traces, database, clock: what every part is built on.
 * - `wire-*.ts`: one file per capability; each registers how its parts are stopped with the
 *   `Lifecycle`.
 * - A start that fails stops what was started, in reverse order, and rejects with the cause.
 */
import { createKeys, type Keys } from '../auth/api-keys.ts';
import { createIdentify, type Identify } from '../auth/identity.ts';
import { createKeyManagement } from '../auth/manage-keys.ts';
import { createSystemUidCheck } from '../auth/system-uids.ts';
import { readBatchQueueStats } from '../batches/due.sql.ts';
import { stopBatches } from '../batches/run-chunk.ts';
import { type ChangesParts, createChanges } from '../changes/changes.ts';
import { createRecallCommands } from '../changes/recall-commands.ts';
import { createRecallStored } from '../changes/recall-stored.ts';
import { type Channels, createChannels } from '../channels/channels.ts';
import type { Config } from '../config/index.ts';
import { limits } from '../limits.ts';
import type { Log } from '../observability/log.ts';
import { startLoop } from '../observability/loop.ts';
import { watchSources } from '../observability/readings.ts';
import { readLockWaits } from '../postgres/lock-waits.ts';
import { createReadiness, type Readiness } from '../postgres/readiness.ts';
import { createDeliveryCursors, type DeliveryCursors } from '../reach/delivery-cursors.ts';
import { createReach } from '../reach/reach.ts';
import { createInbox } from '../reading/inbox.ts';
import { createReadChannel } from '../reading/read-channel.ts';
import { createCredentialWatch } from '../rpc/credential-watch.ts';
import { createBroadcast } from '../sending/broadcast.ts';
import type { Store } from '../sending/group-context.ts';
import { createHandlers } from '../server/handlers.ts';
import { readWebhookStats } from '../webhooks/webhooks.sql.ts';
import { type Foundation, openFoundation } from './foundation.ts';
import { Lifecycle } from './lifecycle.ts';
import { startReload } from './reload.ts';
import { version } from './version.ts';
import { wireBatches } from './wire-batches.ts';
import { wireOverview } from './wire-overview.ts';
import { wirePort } from './wire-port.ts';
import { wireRetention } from './wire-retention.ts';
import { type WiredSending, wireSending } from './wire-sending.ts';
import { type WiredTails, wireTails } from './wire-tails.ts';
import { wireWebhooks } from './wire-webhooks.ts';

/** A running service. */
export interface App {
  readonly url: string;
  /** The PostgreSQL that holds its messages: version and place, without credentials. */
  readonly database: string;
  /** Its metrics in the Prometheus text format. */
  metrics(): Promise<string>;
  /** Checks the files of certificates and secrets now, instead of at the next interval. */
  reload(): void;
  /** Takes no more calls, finishes those in flight within SHUTDOWN_GRACE, closes the database. */
  stop(): Promise<void>;
}

/** Timeout of a readiness check, below the 1 s that Kubernetes gives a probe by default. */
const probeTimeoutMs = 900;
/** Time between writes of delivery cursors: a process that is killed loses those of this time. */
const writeCursorsEveryMs = 3000;

/** `allMetrics`: the metrics of all worker processes on the port, where this is one of several. */
export async function start(config: Config, log: Log, allMetrics?: () => Promise<string>): Promise<App> {
  const lifecycle = new Lifecycle(config.shutdownGraceMs);
  try {
    const foundation = await openFoundation(config, log, lifecycle);
    const { events, now, reads, registry } = foundation;
    const { tails, ephemeral, channelChanges, ...hints } = wireTails(foundation);
    const { webhooks, nudge } = await wireWebhooks(foundation, hints.store);
    const store: Store = {
      ...hints.store,
      announces: webhooks.hasAny,
      onStored(keys) {
        hints.store.onStored?.(keys);
        nudge();
      },
    };
    const sending = await wireSending(foundation, store, ephemeral);
    const { sendBatch, moderation, rates, templates } = sending;
    wireRetention(foundation);
    const readiness = openReadiness(foundation);
    const channels = createChannels(store, channelChanges, now);
    const keys = createKeys(foundation.db, now);
    const identify = await openIdentify(foundation, { channels, keys });
    const credentials = createCredentialWatch(identify, now);
    lifecycle.onStop('credential watch', () => credentials.close());
    const changesParts: ChangesParts = {
      rates,
      moderate: moderation.moderate,
      windowMs: config.recallWindowMs,
      keepsCopies: config.recallKeepDays > 0,
      sendCommands: config.recallLegacyCommand ? createRecallCommands({ ...store, append: sending.append }) : undefined,
      onChanged(channelKeys, kind, count) {
        hints.messagesChanged(channelKeys);
        events.messagesChanged(kind, count);
        nudge();
      },
      now,
    };
    const recallStored = createRecallStored(store, changesParts);
    const { batches, batchWatch } = await wireBatches(foundation, sending, store, recallStored);
    watchGauges(foundation, sending, { tails, isListening: hints.isListening });
    const overview = wireOverview(foundation, sending, { tails });

    const deliveries = openDeliveryCursors(foundation, store);
    const readChannel = createReadChannel({ ...store, db: reads }, now);
    const closing = new AbortController();
    const parts = {
      version,
      console: config.console,
      identify,
      credentials,
      metrics: { metrics: allMetrics ?? registry.text, identify: config.metricsOpen ? undefined : identify },
      requestTimeoutMs: config.requestTimeoutMs,
      sendBatch,
      broadcast: createBroadcast(sendBatch),
      readChannel: deliveries?.readChannel(readChannel) ?? readChannel,
      channels,
      changes: createChanges(store, changesParts),
      tails: deliveries?.tails(tails) ?? tails,
      inbox: createInbox({ ...store, db: reads }, now),
      moderation,
      templates,
      batches,
      batchWatch,
      reach: createReach({ ...store, db: reads }, { batches, recordsDeliveries: config.deliveryCursors, now }),
      webhooks,
      keyManagement: createKeyManagement({ keys, stopBatches: (keyId) => stopBatches(foundation.db, keyId), now }),
      overview,
      settings: config.settings,
      now,
      readiness,
      closing: closing.signal,
      systemUids: config.systemUids === 'all' ? [] : config.systemUids,
    };
    const endStreams = () => {
      closing.abort();
      for (const each of [tails, batchWatch, readiness]) each.close();
    };
    const listener = await wirePort(foundation, sending, createHandlers(parts, events), { readiness, endStreams });
    const reload = startReload(foundation, listener, credentials);
    const { words } = foundation.database;
    return { url: listener.url, database: words, metrics: registry.text, reload, stop: () => lifecycle.stop() };
  } catch (error) {
    await lifecycle.stop().catch(() => {});
    throw error;
  }
}

/** Checks by a connection of their own, so that a full pool does not make an instance unready. */
function openReadiness({ config, database, lifecycle }: Foundation): Readiness {
  const patienceMs = config.probeMs ?? probeTimeoutMs;
  const probing = database.open({ poolSize: 1, connectTimeoutMs: patienceMs, statementTimeoutMs: patienceMs });
  lifecycle.onStop('readiness', () => probing.destroy());
  return createReadiness(probing, { patienceMs });
}

/** Undefined with DELIVERY_CURSORS=off: then tails and reads are not wrapped, and cost nothing. */
function openDeliveryCursors({ config, events, lifecycle }: Foundation, store: Store): DeliveryCursors | undefined {
  if (!config.deliveryCursors) return undefined;
  const cursors = createDeliveryCursors(store, events.deliveryCursors);
  const watch = events.loop('delivery_cursors');
  const writing = startLoop({ everyMs: writeCursorsEveryMs, run: cursors.flush, ...watch });
  lifecycle.onStop('delivery cursors', async () => {
    await writing.stop();
    await cursors.flush().catch(watch.onError);
  });
  return cursors;
}

/** How callers are identified; undefined where AUTH is off. */
async function openIdentify(
  { config, events, now }: Foundation,
  { channels, keys }: { readonly channels: Channels; readonly keys: Keys },
): Promise<Identify | undefined> {
  if (!config.requiresCredential) return undefined;
  const systemUids = config.systemUids === 'all' ? [] : config.systemUids;
  return await createIdentify(config.identity, {
    identifyKey: keys.identify,
    isSystemUid: createSystemUidCheck(systemUids, channels.listSystemUids),
    now,
    onIssuerFault: events.issuerKeysFailed,
  });
}

/** Gauges, read at each scrape. */
function watchGauges(
  { db, now, pools, registry }: Foundation,
  { held, waiting }: WiredSending,
  { tails, isListening }: Pick<WiredTails, 'tails' | 'isListening'>,
): void {
  watchSources(registry, {
    pools,
    lanes: waiting,
    laneMessages: limits.laneMessages,
    tails: tails.counts,
    isListening,
    lockWaits: async () => {
      const { waiting: connections, longestSeconds } = await readLockWaits(db);
      return { waiting: connections, longestSeconds: Math.max(longestSeconds, held.stats().longestMs / 1000) };
    },
    batchQueue: () => readBatchQueueStats(db, now()),
    webhookQueue: () => readWebhookStats(db, now()),
  });
}
