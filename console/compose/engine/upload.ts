import { create, toBinary } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { Client } from '@connectrpc/connect';
import { sha256 } from '@noble/hashes/sha2.js';
import { bytesToHex, utf8ToBytes } from '@noble/hashes/utils.js';
import {
  type Batch,
  type BatchPriority,
  type BatchService,
  type SubmitBatchStreamRequest,
  SubmitBatchStreamRequestSchema,
} from '../../../gen/client/sendbatch/v1/batch_service_pb.ts';
import type { MessageDraft } from '../../../gen/client/sendbatch/v1/message_pb.ts';
import type { RequestTemplate } from '../../../gen/client/sendbatch/v1/message_service_pb.ts';
import { createRetry } from '../../../src/client/retry.ts';

/** Options of a batch, as the user chose them. */
export interface SubmitChoice {
  readonly name: string;
  readonly priority: BatchPriority;
  /** Milliseconds since 1970; undefined: now. */
  readonly sendAtMs: number | undefined;
  /** The earlier batch of the same messages, to send them once more; undefined: the first. */
  readonly after: string | undefined;
}

/** A batch that is ready to be uploaded. */
export interface Prepared {
  readonly frames: readonly SubmitBatchStreamRequest[];
  readonly requestId: string;
  readonly messageCount: number;
}

type Template = Pick<RequestTemplate, 'name' | 'body' | 'format'>;

/** Messages per frame: the service checks a frame in one piece. */
const frameMessages = 1000;

/**
 * Puts messages into frames. The same messages for the same time have the same `request_id`,
 * whatever the name of the file: a second submission finds the first batch. So does a second one
 * after the same earlier batch, also in another tab or after a reload.
 */
export function prepareBatch(
  messages: Iterable<{ readonly line: number; readonly draft: MessageDraft }>,
  templates: readonly Template[],
  { sendAtMs, after }: Pick<SubmitChoice, 'sendAtMs' | 'after'>,
): Prepared {
  const frames: SubmitBatchStreamRequest[] = [];
  const hash = sha256.create();
  let messageCount = 0;
  let frame: { messages: MessageDraft[]; lines: number[] } = { messages: [], lines: [] };
  const flush = () => {
    if (frame.messages.length === 0) return;
    const message = create(SubmitBatchStreamRequestSchema, frame);
    hash.update(toBinary(SubmitBatchStreamRequestSchema, message));
    frames.push(message);
    frame = { messages: [], lines: [] };
  };
  for (const { line, draft } of messages) {
    frame.messages.push(draft);
    frame.lines.push(line);
    messageCount++;
    if (frame.messages.length === frameMessages) flush();
  }
  flush();
  const bodies = templates.map(({ name, body, format }) => [name, body, format]);
  hash.update(utf8ToBytes(JSON.stringify(after === undefined ? [bodies, sendAtMs] : [bodies, sendAtMs, after])));
  return { frames, requestId: `console-${bytesToHex(hash.digest()).slice(0, 40)}`, messageCount };
}

/** Attempts per upload, about two minutes while the network is there. */
const attempts = 30;

/**
 * Uploads a batch, again after each lost connection, under the same `request_id`. The service
 * stores a batch that is complete or nothing, so each attempt begins at the start.
 */
export async function uploadBatch(
  rpc: Client<typeof BatchService>,
  { frames, requestId, messageCount }: Prepared,
  {
    choice,
    templates,
    signal,
    onRetry,
    onAttempt,
    whenOnline,
  }: {
    readonly choice: SubmitChoice;
    readonly templates: readonly Template[];
    readonly signal: AbortSignal;
    /** Called before another attempt. */
    readonly onRetry: (error: unknown) => void;
    /** Called when an attempt begins, from 1. */
    readonly onAttempt: (attempt: number) => void;
    /** Resolves once the computer has a network; how long that takes does not count. */
    readonly whenOnline: (signal: AbortSignal) => Promise<void>;
  },
): Promise<{ readonly batch: Batch; readonly duplicate: boolean }> {
  const { name, priority, sendAtMs } = choice;
  const options = {
    requestId,
    name,
    priority,
    messageCount,
    templates: [...templates],
    ...(sendAtMs === undefined ? {} : { sendAt: timestampFromMs(sendAtMs) }),
  };
  const retries = createRetry({ attempts, longestPauseMs: 10_000 }).begin(signal);
  for (let attempt = 1; ; attempt++) {
    try {
      onAttempt(attempt);
      const { batch, duplicate } = await rpc.submitBatchStream(framesOf(options, frames), {
        signal,
        timeoutMs: 600_000,
      });
      if (batch === undefined) throw new Error('the answer has no batch');
      return { batch, duplicate };
    } catch (error) {
      await retries.after(error, { onRetry });
      await whenOnline(signal);
    }
  }
}

async function* framesOf(
  options: NonNullable<Parameters<typeof create<typeof SubmitBatchStreamRequestSchema>>[1]>['options'] & object,
  frames: readonly SubmitBatchStreamRequest[],
) {
  yield create(SubmitBatchStreamRequestSchema, { options });
  yield* frames;
}
