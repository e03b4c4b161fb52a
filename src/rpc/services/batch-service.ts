import type { ServiceImpl } from '@connectrpc/connect';
import {
  type BatchOptions,
  type BatchService,
  type SubmitBatchStreamRequest,
  SubmitBatchStreamRequestSchema,
} from '../../../gen/sendbatch/v1/batch_service_pb.ts';
import type { MessageDraft } from '../../../gen/sendbatch/v1/message_pb.ts';
import type { Batches } from '../../batches/batches.ts';
import type { BatchWatch } from '../../batches/watch.ts';
import { limits } from '../../limits.ts';
import { pageOf } from '../../messages/page.ts';
import { invalidField, malformed, type ServiceError } from '../../messages/service-error.ts';
import { type CredentialWatch, streamCredential } from '../credential-watch.ts';
import { isDefinitelyValidDraft } from '../fast-validate.ts';
import { checkRules } from '../interceptors/validate.ts';
import { parsePageToken } from '../page-token.ts';
import { callerOf } from '../request-context.ts';
import { timestampMs } from '../timestamps.ts';
import { stateNames, toBatch, toDrafts, toResult, toSubmitCall } from './batch-mapping.ts';
import { createBatchReachMethod, type ReachMethodsParts } from './reach-methods.ts';

/** What BatchService needs. */
export interface BatchServiceParts extends ReachMethodsParts {
  readonly batches: Batches;
  readonly batchWatch: BatchWatch;
  readonly credentials: CredentialWatch;
}

/** Implements sendbatch.v1.BatchService: each RPC converts between the proto and a use case. */
export function createBatchService({
  batches,
  batchWatch,
  credentials,
  ...parts
}: BatchServiceParts): ServiceImpl<typeof BatchService> {
  return {
    ...createBatchReachMethod(parts),
    async submitBatch(request, context) {
      assertCount('message_count', request.messageCount, request.messages.length);
      const submission = await batches.open(toSubmitCall(request, context));
      return await addAndCommit(submission, async () => await submission.add(toDrafts(request, 0)));
    },

    async submitBatchStream(requests, context) {
      let submission: OpenSubmission | undefined;
      const open = async (options?: BatchOptions) => await batches.open(toSubmitCall(options, context));
      const end = new StreamEnd();
      let bytes = 0;
      let emptyFrames = 0;
      try {
        for await (const frame of credentials.whileValid(streamCredential(context), () => requests)) {
          if (frame.messages.length === 0 && ++emptyFrames > maxEmptyFrames)
            throw invalidField(
              'messages',
              `must not be empty in more than ${maxEmptyFrames} frames; send frames with messages`,
            );
          if (frame.options !== undefined && submission !== undefined)
            throw invalidField('options', 'must be set only in the first frame');
          checkFrame(frame, end.count);
          end.addFrame(frame);
          submission ??= await open(frame.options);
          bytes += frame.messages.reduce((sum, each) => sum + sizeOf(each), 0);
          if (bytes > limits.submitBytes) throw tooManyBytes();
          await submission.add(toDrafts(frame, end.count - frame.messages.length));
        }
        submission ??= await open();
        end.assert();
        return answerOf(await submission.commit());
      } catch (error) {
        await submission?.abort();
        throw error;
      }
    },

    async getBatch({ batchId }, context) {
      return { batch: toBatch(await batches.get(callerOf(context), batchId)) };
    },

    async listBatches({ states, pageSize, pageToken }, context) {
      const [time = '', ...rest] = pageToken.split('-');
      const [createdAt = 0] = parsePageToken(time);
      const before = rest.length === 0 ? undefined : { createdAt, batchId: rest.join('-') };
      const limit = pageSize || limits.pageMessagesDefault;
      const wanted = states.flatMap((each) => stateNames.get(each) ?? []);
      const found = await batches.list(callerOf(context), { states: wanted, before, limit: limit + 1 });
      const { page, last } = pageOf(found, limit);
      return {
        batches: page.map(toBatch),
        nextPageToken: last === undefined ? '' : `${last.createdAt}-${last.batchId}`,
      };
    },

    async listBatchResults({ batchId, refusedOnly, pageSize, pageToken }, context) {
      const [dueAt = 0, ordinal = 0, skip = 0] = parsePageToken(pageToken);
      const { results, next, channels } = await batches.listResults(callerOf(context), batchId, {
        from: { dueAt, ordinal, skip },
        refusedOnly,
        limit: pageSize || limits.resultsPage,
        signal: context.signal,
      });
      return {
        results: results.map((each) => toResult(each, channels)),
        nextPageToken: next === undefined ? '' : `${next.dueAt}-${next.ordinal}-${next.skip}`,
      };
    },

    async *watchBatch({ batchId }, context) {
      const batches = credentials.whileValid(streamCredential(context), (signal) =>
        batchWatch.watch(callerOf(context), batchId, signal),
      );
      for await (const batch of batches) yield { batch: toBatch(batch) };
    },

    async cancelBatch({ batchId }, context) {
      return { batch: toBatch(await batches.cancel(callerOf(context), batchId)) };
    },

    async recallBatch({ batchId }, context) {
      return { batch: toBatch(await batches.recall(callerOf(context), batchId)) };
    },

    async retryBatch({ batchId }, context) {
      return answerOf(await batches.retry(callerOf(context), batchId, context.signal));
    },

    async resumeBatch({ batchId, sendAt }, context) {
      const options = { sendAt: sendAt && timestampMs('send_at', sendAt), signal: context.signal };
      return answerOf(await batches.resume(callerOf(context), batchId, options));
    },
  };
}

/** Without a limit a stream of empty frames could last forever. */
const maxEmptyFrames = 1000;

/**
 * Detects truncated streams. HTTP/2 does not: Node's client ends a stream that it cancels before it
 * resets it, and a reset stream reads like one that has ended.
 */
class StreamEnd {
  count = 0;
  #expected = 0;
  #last = false;

  addFrame({ options, messages, last }: SubmitBatchStreamRequest): void {
    if (this.#last) throw invalidField('last', 'was set in an earlier frame; no frame may follow it');
    this.#expected ||= options?.messageCount ?? 0;
    this.#last = last;
    this.count += messages.length;
  }

  assert(): void {
    const { count } = this;
    if (this.#expected === 0 && !this.#last && count > 0)
      throw invalidField(
        'last',
        'must be set in the last frame, unless options.message_count is set; a truncated stream cannot be detected otherwise',
      );
    assertCount('options.message_count', this.#expected, count);
  }
}

/** Refuses a batch whose number of messages differs from the announced one; 0 = not announced. */
function assertCount(field: string, expected: number, received: number): void {
  if (expected !== 0 && expected !== received)
    throw invalidField(field, `is ${expected}, but ${received} messages arrived`);
}

type OpenSubmission = Awaited<ReturnType<Batches['open']>>;

/** Commits a submission once all is added; aborts it on an error, so that nothing stays behind. */
export async function addAndCommit(submission: OpenSubmission, add: () => Promise<void>) {
  try {
    await add();
    return answerOf(await submission.commit());
  } catch (error) {
    await submission.abort();
    throw error;
  }
}

function answerOf({ batch, duplicate }: Awaited<ReturnType<OpenSubmission['commit']>>) {
  return { batch: toBatch(batch), duplicate };
}

/**
 * Validates one frame: the interceptor sees the stream only. Paths count from the batch's first
 * message.
 */
function checkFrame(frame: SubmitBatchStreamRequest, first: number): void {
  const { messages, options } = frame;
  if (options === undefined && messages.length <= limits.submitFrame && messages.every(isDefinitelyValidDraft)) return;
  const failure = checkRules(SubmitBatchStreamRequestSchema, frame);
  if (failure === undefined) return;
  throw malformed(
    failure.violations.map((each) => ({
      ...each,
      field: each.field.replace(/^messages\[(\d+)\]/, (_, index) => `messages[${first + Number(index)}]`),
    })),
    failure.refusal.metadata,
  );
}

/** Approximate bytes of a message as it was received. */
export function sizeOf({ payload, template, subscribers }: MessageDraft): number {
  const variables = template === undefined ? 0 : JSON.stringify(template.variables ?? {}).length;
  return payload.length + variables + subscribers.reduce((sum, uid) => sum + uid.length, 0);
}

export function tooManyBytes(): ServiceError {
  return malformed(
    [
      {
        field: 'messages',
        description: `must have at most ${limits.submitBytes} bytes in total; submit several batches`,
        reason: 'BATCH_TOO_LARGE',
      },
    ],
    { limit: String(limits.submitBytes) },
  );
}
