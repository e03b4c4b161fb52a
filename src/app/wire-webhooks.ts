import type { Config } from '../config/index.ts';
import type { Events } from '../observability/events.ts';
import { startLoop } from '../observability/loop.ts';
import type { Db } from '../postgres/schema.ts';
import { createWebhookDelivery, type WebhookBodies } from '../webhooks/delivery.ts';
import { createPoster, isSecret } from '../webhooks/post.ts';
import { urlFault } from '../webhooks/public-address.ts';
import { retrySchedule } from '../webhooks/webhook.ts';
import { createWebhooks, type Webhooks } from '../webhooks/webhooks.ts';
import { StartError } from './database.ts';
import { version } from './version.ts';

/** The webhooks, and who brings them what is stored. */
export interface WiredWebhooks {
  readonly webhooks: Webhooks;
  /** Something was stored: it is looked at in a moment, and not for each commit. */
  nudge(): void;
  close(graceMs: number): Promise<void>;
}

/** How often each instance looks whether there are webhooks. */
const reloadMs = 1000;
/** How often it looks for work while there are: for what another instance has stored, and what is tried again. */
const pollMs = 250;
/** Commits of this long are looked at together. */
const nudgeMs = 10;

export async function wireWebhooks(
  config: Config,
  {
    db,
    bodies,
    events,
    now,
  }: {
    readonly db: Db;
    readonly bodies: WebhookBodies;
    readonly events: Events;
    /** The database's clock: signatures of all instances carry one time. */
    readonly now: () => number;
  },
): Promise<WiredWebhooks> {
  const { settings, allowPrivate, timeoutMs } = config.webhooks;
  if (settings !== undefined) assertSettings(settings, allowPrivate);
  const poster = createPoster({ timeoutMs, allowPrivate, userAgent: `sendbatch/${version}`, now });
  const watch = events.loop('webhook_deliveries');
  const delivery = createWebhookDelivery({
    db,
    poster,
    bodies,
    events,
    pace: { ...retrySchedule, ...config.webhooks.pace },
    // A POST ends in its time; what is between two of them is a few statements.
    leaseMs: timeoutMs * 2 + 1000,
    onError: watch.onError,
    now,
  });
  let nudging: NodeJS.Timeout | undefined;
  const nudge = () => {
    if (!webhooks.any()) return;
    nudging ??= setTimeout(() => {
      nudging = undefined;
      delivering.nudge();
    }, nudgeMs).unref();
  };
  const webhooks = createWebhooks({ db, poster, bodies, allowPrivate, nudge, now });
  await webhooks.applySettings(settings);
  const delivering = startLoop({
    everyMs: pollMs,
    run: async () => {
      if (webhooks.any()) await delivery.run();
    },
    ...watch,
  });
  const reloading = startLoop({ everyMs: reloadMs, run: webhooks.reload, ...events.loop('webhook_reload') });
  const sweeping = startLoop({
    everyMs: config.sweepIntervalMs,
    async run() {
      await webhooks.sweep();
      // What others wrote to the outbox before they knew that the last webhook is gone.
      if (!webhooks.any()) await delivery.run();
    },
    ...events.loop('webhook_sweeper'),
  });
  return {
    webhooks,
    nudge,
    async close(graceMs) {
      clearTimeout(nudging);
      await Promise.all([delivering.stop(), reloading.stop(), sweeping.stop()]);
      await delivery.stop(graceMs);
    },
  };
}

function assertSettings({ url, secret }: { url: string; secret: string }, allowPrivate: boolean): void {
  const fault = urlFault(url, allowPrivate);
  if (fault !== undefined) throw new StartError(`WEBHOOK_URL ${fault}`);
  if (secret !== '' && !isSecret(secret))
    throw new StartError('WEBHOOK_SECRET must be whsec_ and 24 to 64 bytes in base64');
}
