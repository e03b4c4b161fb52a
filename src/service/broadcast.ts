import { type Caller, notYours } from '../domain/caller.ts';
import { personType } from '../domain/channel.ts';
import { Failure } from '../domain/failure.ts';
import type { Header } from '../domain/message.ts';
import { limits } from '../limits.ts';
import type { SendBatch } from './send-batch.ts';

/** One payload to many users, already checked against the rules of the proto. */
export interface BroadcastCall {
  readonly header?: Header | undefined;
  readonly fromUid: string;
  readonly subscribers: readonly string[];
  readonly payload: Uint8Array;
  readonly expire: number;
  readonly requestId: string;
  /** Aborted when the caller has gone away. */
  readonly signal?: AbortSignal;
  readonly caller: Caller;
}

/** A user that did not get it, and why. */
export interface Missed {
  readonly uid: string;
  readonly reason: string;
}

/** Sends it to everybody once, and names those that could not be reached, in the order of the call. */
export type Broadcast = (call: BroadcastCall) => Promise<Missed[]>;

/** The use case: person messages in batches, one transaction each, so that no transaction is larger than a batch may be. */
export function createBroadcast(sendBatch: SendBatch): Broadcast {
  return async (call) => {
    const refusal = notYours(call.caller, call.fromUid);
    if (refusal !== undefined) throw new Failure(refusal);
    const missed = new Map<number, Missed>();
    const seen = new Set<string>();
    const receivers: { index: number; uid: string }[] = [];
    for (const [index, uid] of call.subscribers.entries()) {
      const fault = uidFault(uid);
      if (fault !== undefined) missed.set(index, { uid, reason: `INVALID_FIELD: the uid ${fault}` });
      else if (!seen.has(uid)) receivers.push({ index, uid });
      seen.add(uid);
    }
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

/** Why each of a part was missed; undefined for those that have it. A failure of the store is said of the whole part. */
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
      atomic: false,
      validateOnly: false,
      requestId: '',
      expectedLastSeqs: [],
      caller: call.caller,
      ...(call.signal === undefined ? {} : { signal: call.signal }),
    });
    return outcomes.map((outcome) =>
      outcome.kind === 'refused' ? `${outcome.refusal.reason}: ${outcome.refusal.message}` : undefined,
    );
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    return part.map(() => `${error.refusal.reason}: ${error.refusal.message}`);
  }
}

function uidFault(uid: string): string | undefined {
  if (uid === '') return 'is empty';
  if (/[@#&\0]/.test(uid)) return 'must not contain @, # or &';
  const bytes = Buffer.byteLength(uid);
  return bytes > limits.idBytes ? `has ${bytes} bytes, at most ${limits.idBytes}` : undefined;
}
