import { create, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { type Client, Code, ConnectError } from '@connectrpc/connect';
import {
  type Batch,
  type BatchOptionsSchema,
  type BatchService,
  RecallState,
  SubmitBatchRequestSchema,
  type SubmitBatchResponse,
} from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
import type { Draft } from './draft.ts';
import { randomKey } from './random-key.ts';
import { endedEarly, type Retry, retried } from './retry.ts';
import { callsOf } from './send.ts';

/**
 * Options of a background batch. `requestId` is generated when it is missing, which makes retries
 * safe.
 */
export type SubmitOptions = Omit<MessageInitShape<typeof BatchOptionsSchema>, '$typeName' | '$unknown'> & {
  readonly signal?: AbortSignal;
  /** The timeout per call in ms; default 600,000, 0 = none. */
  readonly timeoutMs?: number;
  /**
   * The caller's own number per message, such as its line in a file; results return it. Empty, or
   * one per message.
   */
  readonly lines?: readonly number[];
};

/** Enough for 256 MiB at 3.6 Mbit/s. */
const callTimeoutMs = 600_000;

type Rpc = Client<typeof BatchService>;

/**
 * The largest unary request: the service's 16 MiB, less the overhead of base64 in JSON. Larger
 * batches are streamed, which browsers cannot do.
 */
const requestBytes = 8 * 1024 * 1024;

export async function submit(
  rpc: Rpc,
  messages: readonly Draft[],
  { signal, timeoutMs = callTimeoutMs, lines = [], ...given }: SubmitOptions,
  retry: Retry,
): Promise<Pick<SubmitBatchResponse, 'duplicate'> & { readonly batch: Batch }> {
  const options = { ...given, requestId: given.requestId || randomKey() };
  const call = { ...(signal === undefined ? {} : { signal }), ...(timeoutMs === 0 ? {} : { timeoutMs }) };
  const request = create(SubmitBatchRequestSchema, { ...options, messages: [...messages], lines: [...lines] });
  const isLarge = toBinary(SubmitBatchRequestSchema, request).length > requestBytes;
  const retries = retry.begin(signal);
  for (;;) {
    try {
      const { batch, duplicate } = isLarge
        ? await rpc.submitBatchStream(framesOf(messages, lines, options), call)
        : await rpc.submitBatch(request, call);
      if (batch === undefined) throw new ConnectError('the answer has no batch', Code.Internal);
      return { batch, duplicate };
    } catch (error) {
      await retries.after(error);
    }
  }
}

async function* framesOf(
  messages: readonly Draft[],
  lines: readonly number[],
  options: MessageInitShape<typeof BatchOptionsSchema>,
) {
  yield { options: { ...options, messageCount: messages.length } };
  for (const frame of callsOf(messages.map((draft, place) => ({ draft, place }))))
    yield {
      messages: frame.map(({ draft }) => draft),
      lines: lines.length === 0 ? [] : frame.map(({ place }) => lines[place] ?? 0),
    };
}

/** Recalls a batch, retried: a repeated call changes nothing. */
export async function recallBatch(
  rpc: Rpc,
  batchId: string,
  { signal }: { readonly signal?: AbortSignal },
  retry: Retry,
): Promise<Batch> {
  const { batch } = await retried(retry, signal, (options) => rpc.recallBatch({ batchId }, options));
  if (batch === undefined) throw new ConnectError('the answer has no batch', Code.Internal);
  return batch;
}

/**
 * Yields a batch now and after each change until it has ended, as has its recall if there is one,
 * across reconnects.
 */
export async function* watch(
  rpc: Rpc,
  batchId: string,
  { signal }: { readonly signal?: AbortSignal },
  retry: Retry,
): AsyncGenerator<Batch> {
  const retries = retry.begin(signal);
  for (;;) {
    try {
      for await (const { batch } of rpc.watchBatch({ batchId }, signal === undefined ? {} : { signal })) {
        retries.onProgress();
        if (batch === undefined) continue;
        yield batch;
        if (batch.endedAt !== undefined && batch.recallState !== RecallState.RUNNING) return;
      }
      throw endedEarly();
    } catch (error) {
      await retries.after(error);
    }
  }
}
