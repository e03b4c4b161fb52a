import { create, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { type Client, Code, ConnectError } from '@connectrpc/connect';
import {
  type Batch,
  type BatchOptionsSchema,
  type BatchService,
  SubmitBatchRequestSchema,
  type SubmitBatchResponse,
} from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
import type { Draft } from './draft.ts';
import { randomKey } from './random-key.ts';
import { endedEarly, type Retry } from './retry.ts';
import { callsOf } from './send.ts';

/** How a batch is sent in the background; `requestId` is made when there is none, so that a retry is exact. */
export type SubmitOptions = Omit<MessageInitShape<typeof BatchOptionsSchema>, '$typeName' | '$unknown'> & {
  readonly signal?: AbortSignal;
  /** Milliseconds for each call, 600,000 unless set; 0 = no limit. */
  readonly timeoutMs?: number;
  /** The caller's own number of each message, such as its line in a file; results carry it. Empty, or one per message. */
  readonly lines?: readonly number[];
};

/** A batch of 256 MiB takes this long at 3.6 Mbit/s. */
const callTimeoutMs = 600_000;

type Rpc = Client<typeof BatchService>;

/** What one request takes: the service's 16 MiB, with room for JSON's base64. More goes as a stream, which browsers have not. */
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
  const tries = retry.begin(signal);
  for (;;) {
    try {
      const { batch, duplicate } = isLarge
        ? await rpc.submitBatchStream(framesOf(messages, lines, options), call)
        : await rpc.submitBatch(request, call);
      if (batch === undefined) throw new ConnectError('the answer has no batch', Code.Internal);
      return { batch, duplicate };
    } catch (error) {
      await tries.after(error);
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

/** A batch now and after each change until it has ended, across reconnects. */
export async function* watch(
  rpc: Rpc,
  batchId: string,
  { signal }: { readonly signal?: AbortSignal },
  retry: Retry,
): AsyncGenerator<Batch> {
  const tries = retry.begin(signal);
  for (;;) {
    try {
      for await (const { batch } of rpc.watchBatch({ batchId }, signal === undefined ? {} : { signal })) {
        tries.gotOn();
        if (batch === undefined) continue;
        yield batch;
        if (batch.endedAt !== undefined) return;
      }
      throw endedEarly();
    } catch (error) {
      await tries.after(error);
    }
  }
}
