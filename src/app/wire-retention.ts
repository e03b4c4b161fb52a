import { sweepCopies } from '../changes/copies.sql.ts';
import { overShards } from '../postgres/over-shards.ts';
import { sweepLive } from '../postgres/pg-notify.ts';
import { type InboxCursor, sweepExpired, sweepInboxes, sweepOld } from '../retention/sweep.sql.ts';
import { startSweeper } from '../retention/sweeper.ts';
import { sweepTemporary } from '../retention/temporary-channels.sql.ts';
import { dayMs } from '../time.ts';
import type { Foundation } from './foundation.ts';

/** Temporary channels checked per step of the sweeper. */
const temporaryPerStep = 50;
/** Entries of the command inboxes checked per run of the sweeper. */
const inboxesPerRun = 2000;
const firstInbox: InboxCursor = { uid: '', commandSeq: 0 };

/**
 * Starts the sweeper: expired messages, messages and copies past their retention, temporary
 * channels, inboxes.
 */
export function wireRetention({ config, db, events, lifecycle, now, shards }: Foundation): void {
  const store = { db, shards };
  let inboxes = firstInbox;
  const sweeper = startSweeper({
    everyMs: config.sweepIntervalMs,
    retention: config.retention,
    async sweepExpired(limit, at) {
      const removed = await overShards(db, shards.all, (shard) => sweepExpired(shard, limit, at));
      events.messagesRemoved(
        'expired',
        removed.reduce((sum, each) => sum + each, 0),
      );
      return Math.max(...removed);
    },
    async sweepOld(channelType, times, bounds) {
      const swept = await sweepOld(store, channelType, times, bounds);
      events.messagesRemoved('retention', swept.removed);
      return swept;
    },
    async sweepCopies(limit, at) {
      const before = at - config.recallKeepDays * dayMs;
      return Math.max(...(await overShards(db, shards.all, (shard) => sweepCopies(shard, before, limit))));
    },
    sweepTemporary: (at) => sweepTemporary(store, at, temporaryPerStep),
    async sweepInboxes() {
      inboxes = (await sweepInboxes(store, inboxes, inboxesPerRun)) ?? firstInbox;
    },
    sweepLive: (longerThanMs) => sweepLive(db, longerThanMs),
    now,
    ...events.loop('sweeper'),
  });
  lifecycle.onStop('sweeper', () => sweeper.stop());
}
