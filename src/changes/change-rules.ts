import { type Caller, senderDenial } from '../messages/caller.ts';
import type { Refusal } from '../messages/service-error.ts';
import type { MessageChanges } from '../postgres/schema.ts';

/** Who changes messages, and when. */
export interface Changer {
  readonly caller: Caller;
  /** The user that changes its own messages; undefined for a service that names none. */
  readonly uid: string | undefined;
  /** Milliseconds since 1970, by the clock that accepted the messages. */
  readonly now: number;
  /** Milliseconds after its acceptance in which a message may be changed. */
  readonly windowMs: number;
}

/** What decides whether a message may be changed. */
export interface Changeable {
  readonly messageSeq: number;
  readonly fromUid: string;
  readonly acceptedAt: number;
}

/** The refusal of a message that does not exist, or about which the caller may learn nothing. */
export function messageNotFound(what: Readonly<Record<string, string>>): Refusal {
  const [[name, value]] = Object.entries(what) as [[string, string]];
  return {
    reason: 'MESSAGE_NOT_FOUND',
    message: `the channel has no message with ${name} ${JSON.stringify(value)} that this caller may change; it may have expired`,
    metadata: { ...what },
  };
}

/**
 * Why a caller may not recall or edit a message; undefined when it may. A user changes its own
 * messages, a service those of the senders that its key allows; both within the window, except with
 * the scope `admin`.
 */
export function changeDenial(message: Changeable, changer: Changer): Refusal | undefined {
  const { caller, uid, now, windowMs } = changer;
  const { fromUid, messageSeq, acceptedAt } = message;
  const unknown = messageNotFound({ message_seq: String(messageSeq) });
  if (uid !== undefined && uid !== fromUid) return unknown;
  if (senderDenial(caller, fromUid) !== undefined)
    // Without the scope `read` the caller cannot know the message.
    return caller.kind === 'user' || !caller.scopes.has('read')
      ? unknown
      : {
          reason: 'SENDER_NOT_YOURS',
          message: `this API key may not change messages from ${JSON.stringify(fromUid)}; allow it that sender, or use another key`,
          metadata: { from_uid: fromUid, message_seq: String(messageSeq) },
        };
  if (caller.scopes.has('admin') || now - acceptedAt <= windowMs) return undefined;
  const seconds = Math.floor(windowMs / 1000);
  return {
    reason: 'RECALL_WINDOW_OVER',
    message: `message ${messageSeq} is older than ${seconds} s (RECALL_WINDOW); only a credential with the scope admin may still change it`,
    metadata: { message_seq: String(messageSeq), window_seconds: String(seconds) },
  };
}

export function isRecalled(changes: MessageChanges | undefined): boolean {
  return changes?.recalledAt !== undefined;
}

/** What decides whether a stored message of a batch may be recalled with it. */
export interface BatchMessage {
  readonly acceptedAt: number;
  readonly changes: MessageChanges | undefined;
}

/**
 * What the recall of a batch does with one of its messages. `foreign`: an earlier call had sent it,
 * before `sentFrom`. `tooOld`: it was accepted before `notBefore`.
 */
export function batchRecallOf(
  { acceptedAt, changes }: BatchMessage,
  { sentFrom, notBefore }: { readonly sentFrom: number; readonly notBefore: number },
): 'recall' | 'recalled' | 'tooOld' | 'foreign' {
  if (acceptedAt < sentFrom) return 'foreign';
  if (isRecalled(changes)) return 'recalled';
  return acceptedAt < notBefore ? 'tooOld' : 'recall';
}
