import { limits } from '../limits.ts';
import { type Caller, senderDenial } from '../messages/caller.ts';
import type { Cancellation } from '../messages/cancellation.ts';
import { personType } from '../messages/channel.ts';
import type { Header } from '../messages/message.ts';
import { batchTooLarge, malformed, ServiceError } from '../messages/service-error.ts';
import type { SendBatch } from './send-batch.ts';

/** One payload to many users, validated against the rules of the proto. */
export interface BroadcastCall {
  readonly header?: Header | undefined;
  readonly fromUid: string;
  readonly subscribers: readonly string[];
  readonly payload: Uint8Array;
  readonly expire: number;
  readonly requestId: string;
  /** One unreachable receiver fails the call, and nothing is sent. */
  readonly atomic: boolean;
  /** Runs every check and sends nothing. */
  readonly validateOnly: boolean;
  /** Aborts when the caller disconnects. */
  readonly signal?: Cancellation;
  readonly caller: Caller;
}

/** A user that did not receive the message, and why. */
export interface Missed {
  readonly uid: string;
  readonly reason: string;
}

/**
 * Sends to each receiver once; returns those that could not be reached, in the order of the call.
 */
export type Broadcast = (call: BroadcastCall) => Promise<Missed[]>;

/**
 * Creates the broadcast: person messages in batches, so that no transaction exceeds the limits of a
 * batch.
 */
export function createBroadcast(sendBatch: SendBatch): Broadcast {
  return async (call) => {
    const refusal = senderDenial(call.caller, call.fromUid);
    if (refusal !== undefined) throw new ServiceError(refusal);
    const faults = new Map<number, string>();
    const seen = new Set<string>();
    const receivers: { index: number; uid: string }[] = [];
    for (const [index, uid] of call.subscribers.entries()) {
      const fault = uidFault(uid);
      if (fault !== undefined) faults.set(index, fault);
      else if (!seen.has(uid)) receivers.push({ index, uid });
      seen.add(uid);
    }
    if (call.atomic) assertOneBatch(receivers.length, faults);
    const missed = new Map<number, Missed>();
    for (const [index, fault] of faults)
      missed.set(index, { uid: call.subscribers[index] ?? '', reason: `INVALID_FIELD: the uid ${fault}` });
    for (let start = 0; start < receivers.length; start += limits.batchMessages) {
      const part = receivers.slice(start, start + limits.batchMessages);
      const reasons = await sendPart(sendBatch, call, part);
      for (const [position, { index, uid }] of part.entries()) {
        const reason = reasons[position];
        if (reason !== undefined) missed.set(index, { uid, reason });
      }
    }
    return [...missed].sort(([a], [b]) => a - b).map(([, each]) => each);
  };
}

/** ATOMIC is one transaction, which takes at most one batch; one invalid uid fails it. */
function assertOneBatch(receivers: number, faults: ReadonlyMap<number, string>): void {
  const most = limits.batchMessages;
  if (receivers > most) {
    const description = `must have at most ${most} entries with mode ATOMIC, not ${receivers}; send the rest in another call, or all without ATOMIC`;
    throw batchTooLarge('subscribers', description, { limit: most, actual: receivers });
  }
  if (faults.size === 0) return;
  throw malformed(
    [...faults].map(([index, description]) => ({
      field: `subscribers[${index}]`,
      description,
      reason: 'INVALID_FIELD',
    })),
  );
}

/**
 * Sends one part. Returns per receiver why it was missed, or undefined; an error of the store
 * counts for the whole part.
 */
async function sendPart(
  sendBatch: SendBatch,
  call: BroadcastCall,
  part: readonly { index: number; uid: string }[],
): Promise<(string | undefined)[]> {
  try {
    const outcomes = await sendBatch({
      messages: part.map(({ index, uid }) => ({
        header: call.header,
        clientMsgNo: call.requestId === '' ? '' : `${call.requestId}:${index}`,
        fromUid: call.fromUid,
        channelId: uid,
        channelType: personType,
        expire: call.expire,
        payload: call.payload,
        subscribers: [],
        streamNo: '',
        tagKey: '',
      })),
      atomic: call.atomic,
      validateOnly: call.validateOnly,
      requestId: '',
      expectedLastSeqs: [],
      caller: call.caller,
      ...(call.signal === undefined ? {} : { signal: call.signal }),
    });
    return outcomes.map((outcome) =>
      outcome.kind === 'refused' ? `${outcome.refusal.reason}: ${outcome.refusal.message}` : undefined,
    );
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    if (call.atomic) throw ofReceivers(error, part);
    return part.map(() => `${error.refusal.reason}: ${error.refusal.message}`);
  }
}

/** Translates the positions of an error from messages of the batch to `subscribers` of the call. */
function ofReceivers({ refusal, violations, cause }: ServiceError, part: readonly { index: number }[]): ServiceError {
  const named = (text: string) =>
    text.replace(/^messages\[(\d+)\]/, (_, position) => `subscribers[${part[Number(position)]?.index ?? position}]`);
  const { index } = refusal.metadata;
  const metadata = index === undefined ? {} : { index: String(part[Number(index)]?.index ?? index) };
  return new ServiceError(
    { ...refusal, message: named(refusal.message), metadata: { ...refusal.metadata, ...metadata } },
    { violations: violations.map((each) => ({ ...each, field: named(each.field) })), cause },
  );
}

function uidFault(uid: string): string | undefined {
  if (uid === '') return 'must not be empty';
  if (/[@#&\0]/.test(uid)) return 'must not contain @, # or &';
  const bytes = Buffer.byteLength(uid);
  return bytes > limits.idBytes ? `must be at most ${limits.idBytes} bytes, not ${bytes}` : undefined;
}
