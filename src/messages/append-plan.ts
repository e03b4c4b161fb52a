// The decision of a send, without I/O: given what the store holds under the channels' locks, which
// messages are new and get which numbers, which repeat an earlier send, which are refused.
//
// Entry point: `planAppend`. Other files of this folder are what every capability shares: channels
// and messages, callers, permission, errors (`ServiceError`), and the statements on heads, lists
// and stored messages.

import { limits } from '../limits.ts';
import { messageSequence } from './channel.ts';
import { isPersistent, type PreparedMessage } from './message.ts';
import { pairKeyOf } from './permission.ts';
import type { Refusal } from './service-error.ts';

/** A batch as it enters a transaction. */
export interface Batch {
  readonly messages: readonly PreparedMessage[];
  /** All or nothing. */
  readonly atomic: boolean;
  /** By channel key: the last sequence that the channel must have before this batch. */
  readonly expectedLastSeqs: ReadonlyMap<string, number>;
  /**
   * Messages refused for content or rate before the store was asked. Permission and earlier sends
   * still come first.
   */
  readonly refused?: ReadonlyMap<PreparedMessage, Refusal>;
}

/** A message that was stored before. */
export interface Earlier extends Known {
  /** Milliseconds since 1970. */
  readonly acceptedAt: number;
}

interface Known {
  readonly messageId: number;
  readonly messageSeq: number;
  readonly contentHash: string;
}

/** What the store holds about the channels and keys of a group, read under the channels' locks. */
export interface AppendState {
  /** Last sequences by channel key. An absent channel has none yet. */
  readonly heads: ReadonlyMap<string, number>;
  /** Denials by pair key. */
  readonly denials: ReadonlyMap<string, Refusal>;
  /** By message key. */
  readonly earlier: ReadonlyMap<string, Earlier>;
  /** The block of ids for this group. */
  readonly block: number;
  /** The blocks of channels in other shards than that of `block`, by channel key. */
  readonly otherBlocks?: ReadonlyMap<string, number>;
}

/** A message that is new, with its numbers. */
export interface Accepted {
  readonly kind: 'accepted';
  readonly message: PreparedMessage;
  readonly messageId: number;
  /** 0 when it is not persistent. */
  readonly messageSeq: number;
}

/** The outcome of one message. */
export type Outcome =
  | Accepted
  | {
      readonly kind: 'duplicate';
      readonly message: PreparedMessage;
      readonly messageId: number;
      readonly messageSeq: number;
    }
  | { readonly kind: 'refused'; readonly message: PreparedMessage; readonly refusal: Refusal };

/** What to write and what to answer. */
export interface Plan {
  /**
   * Per batch, per message. A refused atomic batch stores nothing: its other messages have the
   * outcome they would have had.
   */
  readonly outcomes: readonly (readonly Outcome[])[];
  /** The rows to insert, in the order of their ids. */
  readonly rows: readonly Accepted[];
  /** New last sequences of the channels that advance, by channel key. */
  readonly heads: ReadonlyMap<string, number>;
}

/**
 * Decides a group of batches, in order: which messages are new and get which numbers, which repeat
 * an earlier send, which are refused. Refused and duplicate messages use no number. A batch sees
 * the effects of the batches before it.
 */
export function planAppend(batches: readonly Batch[], state: AppendState): Plan {
  const heads = new Map<string, number>();
  const known = new Map<string, Known>(state.earlier);
  const outcomes: Outcome[][] = [];
  const rows: Accepted[] = [];
  let nextIdOffset = 0;

  for (const batch of batches) {
    // A refused atomic batch must leave no trace, so each batch works on a layer of its own.
    const batchHeads = new Map<string, number>();
    const batchKnown = new Map<string, Known>();
    const batchRows: Accepted[] = [];
    let refused = false;

    const batchOutcomes = batch.messages.map((message): Outcome => {
      const channel = message.channel.key;
      const { key } = message;
      const refuse = (refusal: Refusal): Outcome => {
        refused = true;
        return { kind: 'refused', message, refusal };
      };
      // Denials first: a sender that is not permitted must learn nothing of what is stored.
      const denial = state.denials.size === 0 ? undefined : state.denials.get(pairKeyOf(message));
      if (denial !== undefined) return refuse(denial);
      const earlier = batchKnown.get(key) ?? known.get(key);
      if (earlier !== undefined) {
        if (earlier.contentHash === message.contentHash)
          return { kind: 'duplicate', message, messageId: earlier.messageId, messageSeq: earlier.messageSeq };
        return refuse(reused(message, earlier));
      }
      const own = batch.refused?.get(message);
      if (own !== undefined) return refuse(own);
      const last = heads.get(channel) ?? state.heads.get(channel) ?? 0;
      const expected = batch.expectedLastSeqs.get(channel);
      if (expected !== undefined && expected !== last) return refuse(mismatch(message, expected, last));
      const block = state.otherBlocks?.get(channel) ?? state.block;
      const messageId = block * limits.idsPerBlock + nextIdOffset++;
      const messageSeq = isPersistent(message) ? (batchHeads.get(channel) ?? last) + 1 : 0;
      const accepted = { kind: 'accepted', message, messageId, messageSeq } as const;
      batchKnown.set(key, { messageId, messageSeq, contentHash: message.contentHash });
      if (messageSeq > 0) {
        batchHeads.set(channel, messageSeq);
        batchRows.push(accepted);
      }
      return accepted;
    });

    outcomes.push(batchOutcomes);
    if (batch.atomic && refused) continue;
    for (const [channel, seq] of batchHeads) heads.set(channel, seq);
    for (const [key, earlier] of batchKnown) if (earlier.messageSeq > 0) known.set(key, earlier);
    for (const row of batchRows) rows.push(row);
  }
  return { outcomes, rows, heads };
}

function reused(message: PreparedMessage, earlier: Known): Refusal {
  return {
    reason: 'CLIENT_MSG_NO_REUSED',
    message: `client_msg_no ${JSON.stringify(message.clientMsgNo)} was already used by this sender in this channel for other content; use a new client_msg_no for a new message`,
    metadata: {
      client_msg_no: message.clientMsgNo,
      message_id: String(earlier.messageId),
      message_seq: String(earlier.messageSeq),
    },
  };
}

function mismatch(message: PreparedMessage, expected: number, actual: number): Refusal {
  return {
    reason: 'SEQ_MISMATCH',
    message: `the channel's last sequence is ${actual}, not the expected ${expected}; read the channel, then send again with the actual last_seq`,
    metadata: {
      channel_id: message.channel.id,
      channel_type: String(message.channel.type),
      expected: String(expected),
      actual: String(actual),
    },
  };
}

/**
 * Whether `expected_last_seqs` may name the channel of a message: it is about messages, not
 * commands.
 */
export function canExpect(message: PreparedMessage): boolean {
  return message.channel.sequence === messageSequence && isPersistent(message);
}
