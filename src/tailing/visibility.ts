// Which messages a reader of a live tail may see.
import { flagWasRestricted } from '../messages/message.ts';
import type { StoredMessage } from '../messages/stored-row.ts';

/** Whether a message is visible to a viewer. */
export function isVisible(viewerUid: string | undefined, { subscribers, fromUid, flags }: StoredMessage): boolean {
  if (viewerUid === undefined || fromUid === viewerUid) return true;
  return subscribers.length === 0 ? (flags & flagWasRestricted) === 0 : subscribers.includes(viewerUid);
}

/**
 * A changed message as a viewer may see it. Who could read a recalled message with named receivers
 * is no longer known: everyone learns that this sequence was recalled, and nothing else.
 */
export function changedFor(viewerUid: string | undefined, message: StoredMessage): StoredMessage | undefined {
  if (isVisible(viewerUid, message)) return message;
  if ((message.flags & flagWasRestricted) === 0) return undefined;
  const { revision = 0, recalledAt } = message.changes ?? {};
  const changes = { revision, ...(recalledAt === undefined ? {} : { recalledAt }) };
  return { ...message, messageId: 0, fromUid: '', clientMsgNo: '', streamNo: '', tagKey: '', changes };
}

/** Whether a message has not expired yet. */
export function isAlive({ expire, acceptedAt }: StoredMessage, now: number): boolean {
  return expire === 0 || acceptedAt + expire * 1000 > now;
}
