import type { ChannelChangeListener } from '../channels/channels.ts';
import { ChannelKeys, type MadeChannel } from '../messages/channel-keys.sql.ts';
import type { PermissionRules } from '../messages/permission.ts';
import type { Events } from '../observability/events.ts';
import { startLoop } from '../observability/loop.ts';
import { type Listening, notify } from '../postgres/pg-notify.ts';
import type { Db } from '../postgres/schema.ts';
import type { Store } from '../sending/group-context.ts';
import { createEphemeralMessages, type EphemeralMessages } from '../tailing/ephemeral.ts';
import { type Hints, startNotifier } from '../tailing/notifier.ts';
import { createTails, type Tails } from '../tailing/tails.ts';
import type { OpenServer } from './database.ts';

/** The store that tells who tails it, in this instance at once and in the others by hints. */
export interface WiredTails {
  readonly store: Store;
  readonly tails: Tails;
  readonly live: EphemeralMessages;
  readonly told: ChannelChangeListener;
  /** Whether hints of other instances are heard. */
  isListening(): boolean;
  close(): Promise<void>;
}

/** How often the heads of what is tailed are looked at, hint or no hint. */
const pollMs = 5000;

export function wireTails(
  database: OpenServer,
  { db, reads }: { readonly db: Db; readonly reads: Db },
  rules: PermissionRules,
  events: Events,
  now: () => number,
): WiredTails {
  const onMade = (created: readonly MadeChannel[]) => {
    tails.channelsMade(created);
    notifier.tell({ made: created.map(({ type, id, channelKey }) => [type, id, channelKey]) });
  };
  const channelKeys = new ChannelKeys(db, onMade, now);
  const store: Store = {
    db,
    channelKeys,
    rules,
    onStored(keys) {
      const stored = [...keys];
      tails.wake(stored);
      notifier.tell({ stored });
    },
  };
  const tails = createTails({ ...store, db: reads }, now, events.tailRead);
  const live = createEphemeralMessages(db, tails.deliver, (ids) => notifier.tell({ live: ids }), now);
  const heard = events.loop('notifier');
  let listening: Listening | undefined;
  let closing = false;
  const notifier = startNotifier({
    send: (payloads) => notify(db, payloads),
    async listen(onPayload, onOpen) {
      const opened = await database.listen(onPayload);
      // Stopped while it was being made: nobody would close it.
      if (closing) return opened.close();
      listening = opened;
      onOpen();
      await listening.gone;
      listening = undefined;
    },
    onHints: (hints) => hear(hints),
    onError: heard.onError,
  });
  const hear = ({ stored, members, changed, made, someMade, live: ids, all }: Hints) => {
    tails.channelsMade(made.map(([type, id, channelKey]) => ({ type, id, channelKey })));
    if (someMade) tails.findMade().catch(heard.onError);
    tails.wake(stored);
    if (members.length > 0) tails.membersChanged(members);
    tails.channelsChanged(changed);
    if (ids.length > 0) live.receive(ids).catch(heard.onError);
    if (all) tails.poll().catch(heard.onError);
  };
  const polling = startLoop({ everyMs: pollMs, run: () => tails.poll(), ...events.loop('tail_poll') });
  return {
    store,
    tails,
    live,
    isListening: () => listening !== undefined,
    told: {
      membersChanged(uids) {
        tails.membersChanged(uids);
        notifier.tell({ members: uids });
      },
      channelChanged(key) {
        tails.channelsChanged([key]);
        notifier.tell({ changed: [key] });
      },
    },
    async close() {
      closing = true;
      await polling.stop();
      await notifier.stop(async () => listening?.close());
    },
  };
}
