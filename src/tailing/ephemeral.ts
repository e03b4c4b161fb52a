import type { Accepted } from '../messages/append-plan.ts';
import { type Channel, channel, firstUids, messageSequence } from '../messages/channel.ts';
import type { StoredMessage } from '../messages/stored-row.ts';
import { insertLive, readLive } from '../postgres/pg-notify.ts';
import type { Db } from '../postgres/schema.ts';
import type { LiveMessage } from './tails.ts';

/** Delivers messages with no_persist to connected readers. */
export interface EphemeralMessages {
  /** Delivers to this instance's readers, and through the database to those of the others. */
  send(accepted: readonly Accepted[]): Promise<void>;
  /** Delivers messages of another instance, by id. */
  receive(ids: readonly number[]): Promise<void>;
}

export function createEphemeralMessages(
  db: Db,
  deliver: (live: LiveMessage) => void,
  publish: (ids: readonly number[]) => void,
  now: () => number = Date.now,
): EphemeralMessages {
  return {
    async send(accepted) {
      const all = accepted.map((each) => toLive(each, now()));
      // The database first, which may fail: a retry must not reach the readers of this instance
      // twice.
      const ids = await insertLive(db, all.map(toBody));
      for (const live of all) deliver(live);
      publish(ids);
    },
    async receive(ids) {
      for (const body of await readLive(db, ids)) deliver(fromBody(body as Body));
    },
  };
}

/** A message in the database: bytes as base64. */
interface Body {
  readonly channel: Channel;
  readonly message: Omit<StoredMessage, 'payload'>;
  readonly payload: string;
}

function toLive({ message, messageId }: Accepted, now: number): LiveMessage {
  const base = channel(message.channel.type, message.channel.id, messageSequence);
  const { flags, fromUid, clientMsgNo, payload, expire, streamNo, tagKey, subscribers } = message;
  return {
    channel: { ...base, uids: firstUids(message.channel) },
    message: {
      messageId,
      messageSeq: 0,
      acceptedAt: now,
      flags,
      fromUid,
      clientMsgNo,
      payload: Buffer.from(payload),
      expire,
      streamNo,
      tagKey,
      subscribers,
    },
  };
}

function toBody({ channel: to, message: { payload, ...message } }: LiveMessage): Body {
  return { channel: to, message, payload: payload.toString('base64') };
}

function fromBody({ channel: to, message, payload }: Body): LiveMessage {
  return { channel: to, message: { ...message, payload: Buffer.from(payload, 'base64') } };
}
