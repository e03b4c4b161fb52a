import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { readBatchQueueStats } from '../batches/due.sql.ts';
import { readServiceCounts, sendSecondsBounds } from '../observability/service-counts.ts';
import { type Overview, startOverview } from '../overview/overview.ts';
import { readWebhookStats } from '../webhooks/webhooks.sql.ts';
import type { Foundation } from './foundation.ts';
import { version } from './version.ts';
import type { WiredSending } from './wire-sending.ts';
import type { WiredTails } from './wire-tails.ts';

/**
 * With more lanes, which are shards, a report has one number for all: it is written every interval.
 */
const maxLanes = 64;

/** The overview of all instances. */
export function wireOverview(
  { config, db, events, lifecycle, now, reads, registry }: Foundation,
  { waiting }: Pick<WiredSending, 'waiting'>,
  { tails }: Pick<WiredTails, 'tails'>,
): Overview {
  const overview = startOverview({
    db,
    instanceId: randomUUID(),
    info: { host: hostname(), pid: process.pid, version, startedAt: now() },
    now,
    counts: () => readServiceCounts(registry),
    sendBounds: sendSecondsBounds,
    cpuSeconds() {
      const { user, system } = process.cpuUsage();
      return (user + system) / 1e6;
    },
    gauges() {
      const lanes = waiting?.() ?? [];
      const items = lanes.map((lane) => lane.items);
      return {
        laneMessages: items.length > maxLanes ? [items.reduce((sum, each) => sum + each, 0)] : items,
        laneOldestMs: Math.max(0, ...lanes.map(({ oldestMs }) => oldestMs)),
        tailReaders: tails.counts().readers,
        memoryBytes: process.memoryUsage.rss(),
      };
    },
    async queues() {
      const batch = await readBatchQueueStats(reads, now());
      const webhook = await readWebhookStats(reads, now());
      return {
        batches: batch.batches,
        batchMessages: batch.messages,
        batchOldestMs: batch.oldestDueMs,
        webhookMessages: webhook.queued,
        parkedDeliveries: webhook.parked,
      };
    },
    everyMs: config.overviewEveryMs,
    ...events.loop('overview'),
  });
  lifecycle.onStop('overview', () => overview.stop());
  return overview;
}
