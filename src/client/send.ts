import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { type Client, Code, ConnectError } from '@connectrpc/connect';
import {
  type MessageService,
  type RequestTemplateSchema,
  SendMode,
  SendResultSchema,
} from '../../gen/client/sendbatch/v1/message_service_pb.ts';
import { channelKeyOf } from './channel-key.ts';
import type { Draft, Result } from './draft.ts';
import { randomKey } from './random-key.ts';
import { type Retry, waitOfRefusal } from './retry.ts';

/** A template that the messages of a send may name. */
export type RequestTemplate = MessageInitShape<typeof RequestTemplateSchema>;

export interface SendOptions {
  /** All or nothing: then at most 1,000 messages, in one call. */
  readonly atomic?: boolean;
  /** Templates for these messages alone; each call carries them. */
  readonly templates?: readonly RequestTemplate[];
  /** Every check, nothing stored: each result is what a send would answer now, without new numbers. */
  readonly validateOnly?: boolean;
  /** Calls at once; 4 unless set. */
  readonly concurrency?: number;
  /** Milliseconds for each call; 60,000 unless set, 0 = no limit. A call that takes longer is retried under the same keys. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
  /** Told after each call: how many messages have their final result. */
  readonly onProgress?: (done: number, of: number) => void;
  /** Told of each call that failed and is tried again. */
  readonly onRetry?: (error: unknown) => void;
}

/** What a call takes: the service's limits, with room for what is not payload. */
const callMessages = 1000;
const callBytes = 8 * 1024 * 1024;
const messageBytes = 512;
/** A call of 8 MiB takes this long at 1 Mbit/s. */
const callTimeoutMs = 60_000;

/** A message, its place in the input, and its key. */
interface Item {
  readonly place: number;
  readonly draft: Draft;
}

type Rpc = Client<typeof MessageService>;

export async function sendAll(
  rpc: Rpc,
  messages: readonly Draft[],
  options: SendOptions,
  retry: Retry,
): Promise<Result[]> {
  const { concurrency = 4, atomic = false, signal } = options;
  const items = messages.map(
    (draft, place): Item => ({
      place,
      draft: draft.clientMsgNo ? draft : { ...draft, clientMsgNo: randomKey() },
    }),
  );
  if (items.length === 0) return [];
  if (atomic && items.length > callMessages)
    throw new ConnectError(
      `an ATOMIC batch has at most ${callMessages} messages, not ${items.length}`,
      Code.InvalidArgument,
    );
  const results: Result[] = new Array(items.length);
  let done = 0;
  const settle = (item: Item, result: Result) => {
    results[item.place] = result;
    done++;
  };
  const progress = () => options.onProgress?.(done, items.length);
  // One failing lane ends the others: what they have not begun is not sent.
  const failed = new AbortController();
  const all = signal === undefined ? failed.signal : AbortSignal.any([signal, failed.signal]);
  const lanes = atomic ? [items] : lanesOf(items, concurrency);
  await Promise.all(
    lanes.map(async (lane) => {
      try {
        for (const call of atomic ? [lane] : callsOf(lane)) {
          all.throwIfAborted();
          await sendCall(rpc, call, { ...options, signal: all }, retry, settle);
          progress();
        }
      } catch (error) {
        failed.abort(error);
        throw error;
      }
    }),
  );
  return results;
}

/** A channel is in one lane, and a lane makes one call after the other: that keeps a channel's order. */
function lanesOf(items: readonly Item[], concurrency: number): Item[][] {
  const lanes = Array.from(
    { length: Math.max(1, Math.min(concurrency, Math.ceil(items.length / callMessages))) },
    (): Item[] => [],
  );
  const laneOfChannel = new Map<string, Item[]>();
  for (const item of items) {
    const key = channelKeyOf(item.draft);
    // A new channel goes where the least is.
    const lane = laneOfChannel.get(key) ?? lanes.reduce((least, each) => (each.length < least.length ? each : least));
    laneOfChannel.set(key, lane);
    lane.push(item);
  }
  return lanes.filter((lane) => lane.length > 0);
}

/** In pieces that a call takes. */
export function* callsOf(items: readonly Item[]): Iterable<Item[]> {
  let call: Item[] = [];
  let bytes = 0;
  for (const item of items) {
    const size = sizeOf(item.draft);
    if (call.length === callMessages || (call.length > 0 && bytes + size > callBytes)) {
      yield call;
      call = [];
      bytes = 0;
    }
    call.push(item);
    bytes += size;
  }
  if (call.length > 0) yield call;
}

/** About how many bytes a message takes in a call. */
function sizeOf({ payload, template, subscribers = [] }: Draft): number {
  const variables = template?.variables === undefined ? 0 : JSON.stringify(template.variables).length;
  const receivers = subscribers.reduce((sum, uid) => sum + uid.length + 2, 0);
  return messageBytes + (payload?.length ?? 0) + variables + receivers;
}

/** One call, until each of its messages has a result that no retry mends. */
async function sendCall(
  rpc: Rpc,
  call: readonly Item[],
  { atomic = false, timeoutMs = callTimeoutMs, signal, templates = [], validateOnly = false, onRetry }: SendOptions,
  retry: Retry,
  settle: (item: Item, result: Result) => void,
): Promise<void> {
  let items = call;
  const tries = retry.begin(signal);
  for (;;) {
    let longest = 0;
    try {
      const { results } = await rpc.sendBatch(
        {
          messages: items.map((item) => item.draft),
          mode: atomic ? SendMode.ATOMIC : SendMode.BEST_EFFORT,
          templates: [...templates],
          validateOnly,
        },
        { ...(timeoutMs === 0 ? {} : { timeoutMs }), ...(signal === undefined ? {} : { signal }) },
      );
      tries.answered();
      const again: Item[] = [];
      for (const [index, item] of items.entries()) {
        const result = results[index] ?? create(SendResultSchema);
        const wait = result.error && tries.goOn() ? waitOfRefusal(result.error) : undefined;
        if (wait === undefined) settle(item, result);
        else again.push(item);
        longest = Math.max(longest, wait ?? 0);
      }
      if (again.length === 0) return;
      items = again;
    } catch (error) {
      await tries.after(error, { told: onRetry });
      continue;
    }
    await tries.pause(longest);
  }
}
