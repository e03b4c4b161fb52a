// Recalls and edits stored messages.
//
// Entry point: `createChanges`. A change is one transaction that locks the channel's head, numbers
// the change and rewrites the rows; numbers, senders and keys of the messages never change.
// Invariants:
//  1. The content of a recalled message is gone with the commit, on every instance and for every
//     reader.
//  2. A repeated send is compared with the content that was sent first, so it is a duplicate also
//     after a recall or an edit.
//  3. Changes of a channel are numbered without gaps, in the order of their commits.
//  4. Who may change a message is decided under the lock (change-rules.ts); what a caller may not
//     know is answered as not found.

import { limits } from '../limits.ts';
import type { Channel } from '../messages/channel.ts';
import { readHeadsAndFirst } from '../messages/channel-heads.sql.ts';
import { disclosed } from '../messages/disclosure.ts';
import { type ChangeKind, type PreparedMessage, prepareMessage } from '../messages/message.ts';
import { seqsOfIds } from '../messages/messages-find.sql.ts';
import { readPairFacts } from '../messages/permission.sql.ts';
import { pairOf, sendDenial } from '../messages/permission.ts';
import { type Refusal, ServiceError } from '../messages/service-error.ts';
import { orBusy, storeBusy } from '../messages/store-busy.ts';
import type { StoredMessage } from '../messages/stored-row.ts';
import type { Moderate } from '../moderation/moderation.ts';
import { insertFlags } from '../moderation/rules.sql.ts';
import type { Db } from '../postgres/schema.ts';
import { onShard } from '../postgres/shards.ts';
import type { RateLimitStatus, Rates } from '../rate-limits/rate-limits.ts';
import { channelToRead, type Reader, viewerOf } from '../reading/read-access.ts';
import type { Store } from '../sending/group-context.ts';
import { type Changer, changeDenial, isRecalled, messageNotFound } from './change-rules.ts';
import {
  edit,
  findKeys,
  lockChanges,
  lockTargets,
  numberChanges,
  type RecallTarget,
  readMessage,
  recall,
} from './changes.sql.ts';
import { type MessageCopy, readCopies } from './copies.sql.ts';
import type { SendRecallCommands } from './recall-commands.ts';

/** A channel, and who changes messages in it. */
interface ChangeCall extends Reader {
  readonly channelType: number;
  readonly channelId: string;
}

/** Messages to recall, at most 1,000 in all. */
export interface RecallCall extends ChangeCall {
  readonly seqs: readonly number[];
  readonly ids: readonly number[];
  /** Values of client_msg_no. */
  readonly keys: readonly string[];
}

/** The outcome for one number or key of a recall. */
export type RecallOutcome =
  | { readonly kind: 'recalled' | 'unchanged'; readonly message: RecallTarget }
  | { readonly kind: 'refused'; readonly named: Partial<Named>; readonly refusal: Refusal };

/** How a message was named. */
interface Named {
  readonly messageSeq: number;
  readonly messageId: number;
  readonly clientMsgNo: string;
}

/** A new content for a message. */
export interface EditCall extends ChangeCall {
  readonly messageSeq: number;
  readonly payload: Uint8Array;
  readonly expectedRevision: number | undefined;
  readonly signal?: AbortSignal;
  /** Receives the caller's rate limit status. */
  readonly onRateLimit?: (status: RateLimitStatus) => void;
}

/** A message after an edit. */
export interface Edited {
  readonly channelType: number;
  readonly channelId: string;
  readonly message: StoredMessage;
  /** The content was the same. */
  readonly unchanged: boolean;
}

/** Recalls and edits messages. */
export interface Changes {
  /** One outcome per number or key: sequences, ids, then keys. */
  recall(call: RecallCall): Promise<readonly RecallOutcome[]>;
  edit(call: EditCall): Promise<Edited>;
  /** Replaced contents of a message, for callers with the scope `admin`. */
  listCopies(call: CopiesCall): Promise<MessageCopy[]>;
}

/** The next copies of a message. */
export interface CopiesCall {
  readonly channelType: number;
  readonly channelId: string;
  readonly messageSeq: number;
  readonly afterRevision: number;
  readonly limit: number;
}

/** What changes pass through, as sends do. */
export interface ChangesParts {
  readonly rates: Rates;
  readonly moderate: Moderate;
  /** Called after the commit of changes, with their channels. */
  readonly onChanged: (channelKeys: readonly number[], kind: ChangeKind, count: number) => void;
  /** Milliseconds in which senders may change their messages. */
  readonly windowMs: number;
  /** Whether replaced contents are kept as copies. */
  readonly keepsCopies: boolean;
  /** Called after the commit of a recall, also of a repeated one; unset: no commands are sent. */
  readonly sendCommands?: SendRecallCommands | undefined;
  readonly now?: () => number;
}

/** Creates the use cases of recalls and edits. */
export function createChanges(store: Store, parts: ChangesParts): Changes {
  const { channelKeys } = store;
  const { windowMs, keepsCopies, now = Date.now } = parts;

  /** The channel, its key if it has messages, and who changes them. */
  async function open(
    call: ChangeCall,
  ): Promise<{ channel: Channel; channelKey: number | undefined; changer: Changer }> {
    const uid = viewerOf(call);
    const channel = channelToRead(call.channelType, call.channelId, uid);
    const channelKey = (await channelKeys.find([channel])).get(channel.key);
    return { channel, channelKey, changer: { caller: call.caller, uid, now: now(), windowMs } };
  }

  return {
    recall: (call) =>
      orBusy(async () => {
        const { channelKey, changer } = await open(call);
        const named = namesOf(call);
        if (channelKey === undefined) return named.map((each) => notFound(each));
        const seqs = await findSeqs(store, channelKey, call, changer.uid);
        const outcomes = await recallFound(store, channelKey, { named, seqs }, { changer, keepsCopies });
        const count = outcomes.filter(({ kind }) => kind === 'recalled').length;
        if (count > 0) parts.onChanged([channelKey], 'recalled', count);
        await parts.sendCommands?.(outcomes.flatMap((each) => (each.kind === 'refused' ? [] : [each.message])));
        return outcomes;
      }),

    edit: (call) =>
      orBusy(async () => {
        const { channel, channelKey, changer } = await open(call);
        const found =
          channelKey === undefined
            ? undefined
            : await readMessage(tablesOf(store, channelKey), channelKey, call.messageSeq, now());
        const message = assertEditable(found, call, changer);
        if (channelKey === undefined) throw new Error('a message without a channel');
        const answer = { channelType: channel.type, channelId: channel.id };
        if (message.payload.equals(call.payload)) return { ...answer, message, unchanged: true };
        const prepared = preparedFrom(channel, message, call.payload);
        await assertMaySend(store, call, prepared);
        const judged = await admitted(parts, call, prepared);
        const edited = await editLocked(store, channelKey, call, { changer, judged, keepsCopies });
        if (!edited.unchanged) parts.onChanged([channelKey], 'edited', 1);
        return { ...answer, ...edited };
      }),

    listCopies: (call) =>
      orBusy(async () => {
        const channel = channelToRead(call.channelType, call.channelId, undefined);
        const channelKey = (await channelKeys.find([channel])).get(channel.key);
        if (channelKey === undefined) return [];
        return await readCopies(tablesOf(store, channelKey), channelKey, call.messageSeq, call);
      }),
  };
}

/** The tables of a channel. */
const tablesOf = ({ db, shards }: Store, channelKey: number): Db => onShard(db, shards.of(channelKey));

/** How each message of a recall was named, in the order of the results. */
function namesOf({ seqs, ids, keys }: RecallCall): Partial<Named>[] {
  return [
    ...seqs.map((messageSeq) => ({ messageSeq })),
    ...ids.map((messageId) => ({ messageId })),
    ...keys.map((clientMsgNo) => ({ clientMsgNo })),
  ];
}

function notFound(named: Partial<Named>): RecallOutcome {
  const { messageSeq, messageId, clientMsgNo } = named;
  const what: Record<string, string> =
    messageSeq !== undefined
      ? { message_seq: String(messageSeq) }
      : messageId !== undefined
        ? { message_id: String(messageId) }
        : { client_msg_no: clientMsgNo ?? '' };
  return { kind: 'refused', named, refusal: messageNotFound(what) };
}

/** The sequence of each message of a recall; undefined: none. A refusal: several have the key. */
async function findSeqs(
  store: Store,
  channelKey: number,
  { seqs, ids, keys }: RecallCall,
  uid: string | undefined,
): Promise<(number | Refusal | undefined)[]> {
  const db = tablesOf(store, channelKey);
  const byId = await seqsOfIds(db, channelKey, ids);
  const byKey = new Map<string, number[]>();
  if (keys.length > 0) {
    const { lastSeq } = await readHeadsAndFirst(db, channelKey);
    const afterSeq = lastSeq - limits.keySearchMessages;
    for (const { clientMsgNo, messageSeq } of await findKeys(db, channelKey, { keys, afterSeq, fromUid: uid }))
      byKey.set(clientMsgNo, [...(byKey.get(clientMsgNo) ?? []), messageSeq]);
  }
  const ofKey = (key: string): number | Refusal | undefined => {
    const found = byKey.get(key) ?? [];
    if (found.length <= 1) return found[0];
    return {
      reason: 'INVALID_FIELD',
      message: `client_msg_no ${JSON.stringify(key)} is the key of messages from ${found.length} senders; set uid, or name the message by message_seqs`,
      metadata: { client_msg_no: key, count: String(found.length) },
    };
  };
  return [...seqs, ...ids.map((id) => byId.get(id)), ...keys.map(ofKey)];
}

/** Recalls those of the messages that the caller may recall, in one transaction. */
async function recallFound(
  store: Store,
  channelKey: number,
  { named, seqs }: { named: readonly Partial<Named>[]; seqs: readonly (number | Refusal | undefined)[] },
  { changer, keepsCopies }: { changer: Changer; keepsCopies: boolean },
): Promise<RecallOutcome[]> {
  const wanted = [...new Set(seqs.filter((seq) => typeof seq === 'number'))];
  const refs = wanted.map((messageSeq) => ({ channelKey, messageSeq }));
  const db = tablesOf(store, channelKey);
  return await db.transaction().execute(async (tx) => {
    const heads = await lockChanges(tx, refs.length === 0 ? [] : [channelKey]);
    const targets = heads.size === 0 ? [] : await lockTargets(tx, refs, changer.now);
    const bySeq = new Map(targets.map((target) => [target.messageSeq, target]));
    const recalled = new Set<number>();
    const outcomes = named.map((each, index): RecallOutcome => {
      const seq = seqs[index];
      if (typeof seq === 'object') return { kind: 'refused', named: each, refusal: seq };
      const message = seq === undefined ? undefined : bySeq.get(seq);
      if (message === undefined) return notFound(each);
      const denial = changeDenial(message, changer);
      if (denial?.reason === 'MESSAGE_NOT_FOUND') return notFound(each);
      if (denial !== undefined) return { kind: 'refused', named: each, refusal: denial };
      if (isRecalled(message.changes) || recalled.has(message.messageSeq)) return { kind: 'unchanged', message };
      recalled.add(message.messageSeq);
      return { kind: 'recalled', message };
    });
    if (recalled.size > 0) {
      const numbered = numberChanges(
        targets.filter(({ messageSeq }) => recalled.has(messageSeq)),
        heads,
      );
      const by = changer.uid ?? changer.caller.name;
      await recall(tx, numbered, { by, now: changer.now, announces: store.announces?.() ?? false, keepsCopies });
    }
    return outcomes;
  });
}

/**
 * Throws unless the message exists, may be changed by the caller, and has the expected revision.
 */
function assertEditable(
  message: StoredMessage | undefined,
  { messageSeq, expectedRevision }: EditCall,
  changer: Changer,
): StoredMessage {
  if (message === undefined) throw new ServiceError(messageNotFound({ message_seq: String(messageSeq) }));
  const denial = changeDenial(message, changer);
  if (denial !== undefined) throw new ServiceError(denial);
  if (isRecalled(message.changes))
    throw new ServiceError({
      reason: 'MESSAGE_RECALLED',
      message: `message ${messageSeq} was recalled and cannot be edited; send a new message`,
      metadata: { message_seq: String(messageSeq) },
    });
  const revision = message.changes?.revision ?? 0;
  if (expectedRevision === undefined || expectedRevision === revision) return message;
  throw new ServiceError({
    reason: 'REVISION_MISMATCH',
    message: `message ${messageSeq} has revision ${revision}, not ${expectedRevision}; read it again and decide`,
    metadata: { message_seq: String(messageSeq), actual: String(revision), expected: String(expectedRevision) },
  });
}

/** The message as a send with the new content would have it. */
function preparedFrom(channel: Channel, message: StoredMessage, payload: Uint8Array): PreparedMessage {
  const { fromUid, clientMsgNo, expire, subscribers, streamNo, tagKey, flags } = message;
  const draft = { clientMsgNo, fromUid, expire, payload, subscribers, streamNo, tagKey };
  const named = { channelId: channel.id, channelType: channel.type };
  return { ...prepareMessage({ ...draft, ...named }, clientMsgNo), flags };
}

/** Throws unless the sender may send to the channel now. */
async function assertMaySend(store: Store, { caller }: EditCall, prepared: PreparedMessage): Promise<void> {
  const pair = pairOf(prepared);
  const facts = (await readPairFacts(store, [pair])).get(pair.key);
  const denial = facts && sendDenial(pair, facts, store.rules);
  if (denial !== undefined) throw new ServiceError(disclosed(caller, denial));
}

/** Counts the edit as one message of the rates and passes its content through moderation. */
async function admitted(
  { rates, moderate }: ChangesParts,
  { caller, signal, onRateLimit }: EditCall,
  prepared: PreparedMessage,
): Promise<PreparedMessage> {
  const decision = await rates(caller, [prepared]);
  if (decision.status !== undefined) onRateLimit?.(decision.status);
  const overRate = decision.refused.get(prepared);
  if (overRate !== undefined) throw new ServiceError(overRate);
  const { messages, refused } = await moderate([prepared], { caller: caller.id, signal });
  const [judged = prepared] = messages;
  const denial = refused.get(judged);
  if (denial === undefined) return judged;
  await decision.refund([prepared]);
  await decision.charge(1);
  throw new ServiceError(denial);
}

/** Stores the new content, after the checks that may have changed meanwhile. */
async function editLocked(
  store: Store,
  channelKey: number,
  call: EditCall,
  { changer, judged, keepsCopies }: { changer: Changer; judged: PreparedMessage; keepsCopies: boolean },
): Promise<{ message: StoredMessage; unchanged: boolean }> {
  const { now } = changer;
  const db = tablesOf(store, channelKey);
  return await db.transaction().execute(async (tx) => {
    const heads = await lockChanges(tx, [channelKey]);
    const message = assertEditable(await readMessage(tx, channelKey, call.messageSeq, now, 'lock'), call, changer);
    if (heads.size === 0) throw storeBusy(new Error('the channel was removed'));
    if (message.payload.equals(judged.payload)) return { message, unchanged: true };
    const revision = (message.changes?.revision ?? 0) + 1;
    const { messageId, messageSeq } = message;
    const [numbered] = numberChanges([{ channelKey, messageSeq }], heads);
    if (numbered === undefined) throw new Error('a change without a number');
    const options = { now, announces: store.announces?.() ?? false, keepsCopies };
    await edit(tx, numbered, { ...options, payload: judged.payload, revision });
    if (judged.flaggedBy !== undefined)
      await insertFlags(tx, [{ messageId, messageSeq, channelKey, ruleIds: judged.flaggedBy }], now);
    const changes = { revision, editedAt: now };
    return { message: { ...message, payload: Buffer.from(judged.payload), changes }, unchanged: false };
  });
}
