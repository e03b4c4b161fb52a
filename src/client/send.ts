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
import { type Retry, refusalRetryDelay } from './retry.ts';

/** A template that the messages of a send may name. */
export type RequestTemplate = MessageInitShape<typeof RequestTemplateSchema>;

export interface SendOptions {
  /** All or nothing: at most 1,000 messages, in one call. */
  readonly atomic?: boolean;
  /** Templates of these messages alone; every call carries them. */
  readonly templates?: readonly RequestTemplate[];
  /**
   * Runs every check and stores nothing: each result is what a send would answer now, without new
   * numbers.
   */
  readonly validateOnly?: boolean;
  /** Calls in flight; default 4. */
  readonly concurrency?: number;
  /**
   * The timeout per call in ms; default 60,000, 0 = none. A call that takes longer is retried with
   * the same keys.
   */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
  /** Called after each call with the number of messages that have their final result. */
  readonly onProgress?: (done: number, of: number) => void;
  /** Called for each failed call that is retried. */
  readonly onRetry?: (error: unknown) => void;
}

/** The limits of a call: those of the service, less the overhead besides payloads. */
const callMessages = 1000;
const callBytes = 8 * 1024 * 1024;
const messageBytes = 512;
/** Enough for 8 MiB at 1 Mbit/s. */
const callTimeoutMs = 60_000;

/** A message with its key, and its position in the input. */
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
  // A failing lane stops the others: their calls that have not started are not sent.
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

/**
 * Distributes messages over lanes. A channel belongs to one lane, and a lane makes one call at a
 * time, which keeps the channel's order.
 */
function lanesOf(items: readonly Item[], concurrency: number): Item[][] {
  const lanes = Array.from(
    { length: Math.max(1, Math.min(concurrency, Math.ceil(items.length / callMessages))) },
    (): Item[] => [],
  );
  const laneOfChannel = new Map<string, Item[]>();
  for (const item of items) {
    const key = channelKeyOf(item.draft);
    // A new channel goes to the shortest lane.
    const lane = laneOfChannel.get(key) ?? lanes.reduce((least, each) => (each.length < least.length ? each : least));
    laneOfChannel.set(key, lane);
    lane.push(item);
  }
  return lanes.filter((lane) => lane.length > 0);
}

/** Splits messages into calls within the limits. */
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

/** Estimates the bytes of a message in a call. */
function sizeOf({ payload, template, subscribers = [] }: Draft): number {
  const variables = template?.variables === undefined ? 0 : JSON.stringify(template.variables).length;
  const receivers = subscribers.reduce((sum, uid) => sum + uid.length + 2, 0);
  return messageBytes + (payload?.length ?? 0) + variables + receivers;
}

/** Repeats one call until each of its messages has a final result. */
async function sendCall(
  rpc: Rpc,
  call: readonly Item[],
  { atomic = false, timeoutMs = callTimeoutMs, signal, templates = [], validateOnly = false, onRetry }: SendOptions,
  retry: Retry,
  settle: (item: Item, result: Result) => void,
): Promise<void> {
  let items = call;
  const retries = retry.begin(signal);
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
      retries.onAnswer();
      const again: Item[] = [];
      for (const [index, item] of items.entries()) {
        const result = results[index] ?? create(SendResultSchema);
        const wait = result.error && retries.canRetry() ? refusalRetryDelay(result.error) : undefined;
        if (wait === undefined) settle(item, result);
        else again.push(item);
        longest = Math.max(longest, wait ?? 0);
      }
      if (again.length === 0) return;
      items = again;
    } catch (error) {
      await retries.after(error, { onRetry });
      continue;
    }
    await retries.pause(longest);
  }
}
