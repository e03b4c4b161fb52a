import type { ChannelChangeListener } from '../channels/channels.ts';
import { ChannelKeys, type CreatedChannel } from '../messages/channel-keys.sql.ts';
import { startLoop } from '../observability/loop.ts';
import { type Listening, notify } from '../postgres/pg-notify.ts';
import type { Store } from '../sending/group-context.ts';
import { createEphemeralMessages, type EphemeralMessages } from '../tailing/ephemeral.ts';
import { type Hints, startNotifier } from '../tailing/notifier.ts';
import { createTails, type Tails } from '../tailing/tails.ts';
import type { Foundation } from './foundation.ts';

/** Tails, and the store that wakes them: in this instance at once, in the others by NOTIFY. */
export interface WiredTails {
  readonly store: Store;
  readonly tails: Tails;
  readonly ephemeral: EphemeralMessages;
  readonly channelChanges: ChannelChangeListener;
  /** Called after messages of channels were edited or recalled. */
  messagesChanged(channelKeys: readonly number[]): void;
  /**
   * Whether the LISTEN connection is open. Without it tails of messages from other instances wait
   * for the poll.
   */
  isListening(): boolean;
}

/**
 * Time between polls of the heads of followed channels: bounds the delay when a notification is
 * lost.
 */
const pollEveryMs = 5000;

export function wireTails({ database, db, events, lifecycle, now, reads, rules, shards }: Foundation): WiredTails {
  const onMade = (created: readonly CreatedChannel[]) => {
    tails.channelsCreated(created);
    notifier.publish({ made: created.map(({ type, id, channelKey }) => [type, id, channelKey]) });
  };
  const channelKeys = new ChannelKeys(db, { shards, onCreated: onMade, now });
  const store: Store = {
    db,
    shards,
    channelKeys,
    rules,
    onStored(keys) {
      const stored = [...keys];
      tails.wake(stored);
      notifier.publish({ stored });
    },
  };
  const tails = createTails({ ...store, db: reads }, now, events.tailRead);
  const ephemeral = createEphemeralMessages(db, tails.deliver, (ids) => notifier.publish({ live: ids }), now);
  const watch = events.loop('notifier');
  let listening: Listening | undefined;
  let closing = false;
  const notifier = startNotifier({
    send: (payloads) => notify(db, payloads),
    async listen(onPayload, onOpen) {
      const opened = await database.listen(onPayload);
      // The service was stopped while this connection opened: nothing else would close it.
      if (closing) return opened.close();
      listening = opened;
      onOpen();
      await listening.gone;
      listening = undefined;
    },
    onHints: (hints) => receive(hints),
    onError: watch.onError,
  });
  const receive = ({ stored, edited, members, changed, made, someMade, live: ids, all }: Hints) => {
    tails.channelsCreated(made.map(([type, id, channelKey]) => ({ type, id, channelKey })));
    if (someMade) tails.findCreated().catch(watch.onError);
    tails.wake(stored);
    tails.messagesChanged(edited);
    if (members.length > 0) tails.membersChanged(members);
    tails.channelsChanged(changed);
    if (ids.length > 0) ephemeral.receive(ids).catch(watch.onError);
    if (all) tails.poll().catch(watch.onError);
  };
  const polling = startLoop({ everyMs: pollEveryMs, run: () => tails.poll(), ...events.loop('tail_poll') });
  lifecycle.onStop('tails', async () => {
    closing = true;
    await polling.stop();
    await notifier.stop(async () => listening?.close());
  });
  return {
    store,
    tails,
    ephemeral,
    isListening: () => listening !== undefined,
    messagesChanged(channelKeys) {
      tails.messagesChanged(channelKeys);
      notifier.publish({ edited: channelKeys });
    },
    channelChanges: {
      membersChanged(uids) {
        tails.membersChanged(uids);
        notifier.publish({ members: uids });
      },
      channelChanged(key) {
        tails.channelsChanged([key]);
        notifier.publish({ changed: [key] });
      },
    },
  };
}
