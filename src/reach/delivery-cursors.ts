import { type Channel, channel, messageSequence } from '../messages/channel.ts';
import { viewerOf } from '../reading/read-access.ts';
import type { ReadChannel } from '../reading/read-channel.ts';
import type { Store } from '../sending/group-context.ts';
import type { Tails } from '../tailing/tails.ts';
import { advanceDelivered } from './delivery-cursors.sql.ts';

/**
 * Records up to which message each user was handed each channel. Notes are kept in memory until
 * `flush` writes them; those of a process that dies are lost, so that a cursor may lag and never
 * leads. Reads as a user advance its cursors: its own, and those of services that name it.
 */
export interface DeliveryCursors {
  /** Wraps tails: a message counts as handed over when the reader asks for the next event. */
  tails(tails: Tails): Tails;
  /** Wraps the reading of history: the messages of a page count. */
  readChannel(readChannel: ReadChannel): ReadChannel;
  /** Writes what is noted. What cannot be written is kept for the next call. */
  flush(): Promise<void>;
}

/** Notes kept at most: about 20 MB. More are dropped while the database is unreachable. */
const maxNotes = 100_000;
const cursorsPerWrite = 5000;

interface Note {
  readonly uid: string;
  readonly channel: Channel;
  seq: number;
}

export function createDeliveryCursors(
  { db, channelKeys }: Pick<Store, 'db' | 'channelKeys'>,
  onCursors: (outcome: 'written' | 'dropped', count: number) => void,
): DeliveryCursors {
  let notes = new Map<string, Note>();

  function note(uid: string, to: Channel, seq: number): void {
    const key = `${to.key}\n${uid}`;
    const known = notes.get(key);
    if (known !== undefined) {
      if (known.seq < seq) known.seq = seq;
    } else if (notes.size < maxNotes) notes.set(key, { uid, channel: to, seq });
    else onCursors('dropped', 1);
  }

  async function flush(): Promise<void> {
    const taken = [...notes.values()];
    notes = new Map();
    for (let start = 0; start < taken.length; start += cursorsPerWrite) {
      const part = taken.slice(start, start + cursorsPerWrite);
      try {
        onCursors('written', await write(part));
      } catch (error) {
        for (const each of taken.slice(start)) note(each.uid, each.channel, each.seq);
        throw error;
      }
    }
  }

  async function write(part: readonly Note[]): Promise<number> {
    const keys = await channelKeys.find(part.map((each) => each.channel));
    const cursors = part.flatMap(({ uid, channel: { key }, seq: messageSeq }) => {
      const channelKey = keys.get(key);
      return channelKey === undefined ? [] : [{ uid, channelKey, messageSeq }];
    });
    cursors.sort((a, b) => a.channelKey - b.channelKey || (a.uid < b.uid ? -1 : 1));
    if (cursors.length > 0) await advanceDelivered(db, cursors);
    return cursors.length;
  }

  return {
    flush,
    tails: (tails) => ({
      ...tails,
      subscribe(call) {
        const uid = viewerOf(call);
        const events = tails.subscribe(call);
        return uid === undefined ? events : noted(events, uid);
      },
    }),
    readChannel: (readChannel) => ({
      ...readChannel,
      async page(call) {
        const page = await readChannel.page(call);
        const uid = viewerOf(call);
        const last = page.messages.reduce((seq, each) => Math.max(seq, each.messageSeq), 0);
        if (uid !== undefined && last > 0) note(uid, channel(page.channelType, page.channelId, messageSequence), last);
        return page;
      },
    }),
  };

  async function* noted(events: ReturnType<Tails['subscribe']>, uid: string): ReturnType<Tails['subscribe']> {
    for await (const event of events) {
      yield event;
      if (event.kind === 'message' && event.message.messageSeq > 0) note(uid, event.channel, event.message.messageSeq);
    }
  }
}
