import type { ChannelStore } from '../messages/channel-keys.sql.ts';
import { startLoop } from '../observability/loop.ts';
import { createWebhookBodies } from '../rpc/webhook-body.ts';
import { createWebhookDelivery } from '../webhooks/delivery.ts';
import { createPoster, isSecret } from '../webhooks/post.ts';
import { findUrlFault } from '../webhooks/public-address.ts';
import { retrySchedule } from '../webhooks/webhook.ts';
import { createWebhooks, type Webhooks } from '../webhooks/webhooks.ts';
import type { Foundation } from './foundation.ts';
import { StartError } from './start-error.ts';
import { version } from './version.ts';

/** Webhooks, and the loops that deliver what is stored to them. */
export interface WiredWebhooks {
  readonly webhooks: Webhooks;
  /** Messages were stored: starts delivery within `nudgeMs`, once for all commits of that time. */
  nudge(): void;
}

/** Time between checks of each instance for created, changed and deleted webhooks. */
const reloadEveryMs = 1000;
/**
 * Time between polls for work while webhooks exist: messages of other instances, and due retries.
 */
const pollEveryMs = 250;
/** Commits within this time start one delivery run. */
const nudgeMs = 10;

export async function wireWebhooks(
  { config, db, events, lifecycle, now }: Foundation,
  store: ChannelStore,
): Promise<WiredWebhooks> {
  const { settings, allowPrivate, timeoutMs } = config.webhooks;
  if (settings !== undefined) assertSettings(settings, allowPrivate);
  const bodies = createWebhookBodies();
  // Database time, so that the signatures of all instances carry one clock.
  const poster = createPoster({ timeoutMs, allowPrivate, userAgent: `sendbatch/${version}`, now });
  const watch = events.loop('webhook_deliveries');
  const delivery = createWebhookDelivery({
    store,
    poster,
    bodies,
    events,
    schedule: { ...retrySchedule, ...config.webhooks.retrySchedule },
    // A POST ends within its timeout; between two of them are a few statements.
    leaseMs: timeoutMs * 2 + 1000,
    onError: watch.onError,
    now,
  });
  let nudging: NodeJS.Timeout | undefined;
  const nudge = () => {
    if (!webhooks.hasAny()) return;
    nudging ??= setTimeout(() => {
      nudging = undefined;
      delivering.nudge();
    }, nudgeMs).unref();
  };
  const webhooks = createWebhooks({ db, poster, bodies, allowPrivate, nudge, now });
  await webhooks.applySettings(settings);
  const delivering = startLoop({
    everyMs: pollEveryMs,
    run: async () => {
      if (webhooks.hasAny()) await delivery.run();
    },
    ...watch,
  });
  const reloading = startLoop({ everyMs: reloadEveryMs, run: webhooks.reload, ...events.loop('webhook_reload') });
  const sweeping = startLoop({
    everyMs: config.sweepIntervalMs,
    async run() {
      await webhooks.sweep();
      // Removes outbox rows that other instances wrote before they saw that the last webhook was
      // deleted.
      if (!webhooks.hasAny()) await delivery.run();
    },
    ...events.loop('webhook_sweeper'),
  });
  lifecycle.onStop('webhooks', async () => {
    clearTimeout(nudging);
    await Promise.all([delivering.stop(), reloading.stop(), sweeping.stop()]);
    await delivery.stop(lifecycle.graceLeftMs());
  });
  return { webhooks, nudge };
}

function assertSettings({ url, secret }: { url: string; secret: string }, allowPrivate: boolean): void {
  const fault = findUrlFault(url, allowPrivate);
  if (fault !== undefined) throw new StartError(`WEBHOOK_URL ${fault}`);
  if (secret !== '' && !isSecret(secret))
    throw new StartError('WEBHOOK_SECRET must be whsec_ and 24 to 64 bytes in base64');
}
