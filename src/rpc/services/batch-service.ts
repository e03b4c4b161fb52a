import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { HandlerContext, ServiceImpl } from '@connectrpc/connect';
import {
  type BatchOptions,
  BatchPriority,
  type BatchResultSchema,
  type BatchSchema,
  type BatchService,
  BatchState,
  type SubmitBatchStreamRequest,
  SubmitBatchStreamRequestSchema,
} from '../../../gen/sendbatch/v1/batch_service_pb.ts';
import type { ChannelType, MessageDraft } from '../../../gen/sendbatch/v1/message_pb.ts';
import { callerKey } from '../../auth/identity.ts';
import {
  type BatchDraft,
  type BatchPriority as Priority,
  type BatchState as State,
  slotCost,
} from '../../batches/batch.ts';
import type { Batches, ResultsPage, StoredBatch } from '../../batches/batches.ts';
import type { SubmitCall } from '../../batches/submission.ts';
import type { BatchWatch } from '../../batches/watch.ts';
import { limits } from '../../limits.ts';
import { pageOf } from '../../messages/page.ts';
import { invalidField, malformed, type ServiceError } from '../../messages/service-error.ts';
import { type CredentialWatch, streamCredential } from '../credential-watch.ts';
import { refusalOf } from '../error-mapping.ts';
import { isPlainlyValid } from '../fast-validate.ts';
import { checkRules } from '../interceptors/validate.ts';
import { parsePageToken } from '../page-token.ts';
import { requestIdOf } from '../request-id.ts';
import { timestampMs } from '../timestamps.ts';
import { formatOf } from './template-service.ts';

/** What BatchService needs. */
export interface BatchServiceParts {
  readonly batches: Batches;
  readonly batchWatch: BatchWatch;
  readonly credentials: CredentialWatch;
}

/** Implements sendbatch.v1.BatchService: each RPC converts between the proto and a use case. */
export function createBatchService({
  batches,
  batchWatch,
  credentials,
}: BatchServiceParts): ServiceImpl<typeof BatchService> {
  return {
    async submitBatch(request, context) {
      assertCount('message_count', request.messageCount, request.messages.length);
      const submission = await batches.open(callOf(request, context));
      return await submitting(submission, async () => await submission.add(withLines(request, 0)));
    },

    async submitBatchStream(requests, context) {
      let submission: Opened | undefined;
      const open = async (options?: BatchOptions) => await batches.open(callOf(options, context));
      const end = new StreamEnd();
      let bytes = 0;
      let emptyFrames = 0;
      try {
        for await (const frame of requests) {
          if (frame.messages.length === 0 && ++emptyFrames > mostEmptyFrames)
            throw invalidField(
              'messages',
              `must not be empty in more than ${mostEmptyFrames} frames; send frames with messages`,
            );
          if (frame.options !== undefined && submission !== undefined)
            throw invalidField('options', 'must be set only in the first frame');
          checkFrame(frame, end.count);
          end.see(frame);
          submission ??= await open(frame.options);
          bytes += frame.messages.reduce((sum, each) => sum + sizeOf(each), 0);
          if (bytes > limits.submitBytes) throw tooManyBytes();
          await submission.add(withLines(frame, end.count - frame.messages.length));
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
      return { batch: toBatch(await batches.get(context.values.get(callerKey), batchId)) };
    },

    async listBatches({ states, pageSize, pageToken }, context) {
      const [time = '', ...rest] = pageToken.split('-');
      const [createdAt = 0] = parsePageToken(time);
      const before = rest.length === 0 ? undefined : { createdAt, batchId: rest.join('-') };
      const limit = pageSize || limits.pageMessagesDefault;
      const wanted = states.flatMap((each) => stateNames.get(each) ?? []);
      const found = await batches.list(context.values.get(callerKey), { states: wanted, before, limit: limit + 1 });
      const { page, last } = pageOf(found, limit);
      return {
        batches: page.map(toBatch),
        nextPageToken: last === undefined ? '' : `${last.createdAt}-${last.batchId}`,
      };
    },

    async listBatchResults({ batchId, refusedOnly, pageSize, pageToken }, context) {
      const [dueAt = 0, ordinal = 0, skip = 0] = parsePageToken(pageToken);
      const { results, next } = await batches.listResults(context.values.get(callerKey), batchId, {
        from: { dueAt, ordinal, skip },
        refusedOnly,
        limit: pageSize || limits.resultsPage,
        signal: context.signal,
      });
      return {
        results: results.map(toResult),
        nextPageToken: next === undefined ? '' : `${next.dueAt}-${next.ordinal}-${next.skip}`,
      };
    },

    async *watchBatch({ batchId }, context) {
      const batches = credentials.whileValid(streamCredential(context), (signal) =>
        batchWatch.watch(context.values.get(callerKey), batchId, signal),
      );
      for await (const batch of batches) yield { batch: toBatch(batch) };
    },

    async cancelBatch({ batchId }, context) {
      return { batch: toBatch(await batches.cancel(context.values.get(callerKey), batchId)) };
    },

    async retryBatch({ batchId }, context) {
      return answerOf(await batches.retry(context.values.get(callerKey), batchId, context.signal));
    },
  };
}

/** A stream of empty frames could go on for ever. */
const mostEmptyFrames = 1000;

/**
 * Detects truncated streams. HTTP/2 does not: Node's client ends a stream that it cancels before it
 * resets it, and a reset stream reads like one that has ended.
 */
class StreamEnd {
  count = 0;
  #expected = 0;
  #last = false;

  see({ options, messages, last }: SubmitBatchStreamRequest): void {
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
function assertCount(field: string, expected: number, came: number): void {
  if (expected !== 0 && expected !== came) throw invalidField(field, `is ${expected}, but ${came} messages arrived`);
}

type Options = Omit<BatchOptions, '$typeName' | '$unknown' | 'messageCount'>;

export function callOf(
  options: Options | undefined,
  { values, requestHeader }: Pick<HandlerContext, 'values' | 'requestHeader'>,
): SubmitCall {
  return {
    caller: values.get(callerKey),
    requestId: requestIdOf(options?.requestId ?? '', requestHeader.get('idempotency-key')),
    sendAt: options?.sendAt && timestampMs('send_at', options.sendAt),
    priority: priorityNames.get(options?.priority ?? BatchPriority.UNSPECIFIED) ?? 'normal',
    name: options?.name ?? '',
    templates: (options?.templates ?? []).map(({ name, body, format }) => ({ name, body, format: formatOf(format) })),
  };
}

type Opened = Awaited<ReturnType<Batches['open']>>;

/** Commits a submission once all is added; aborts it on an error, so that nothing stays behind. */
export async function submitting(submission: Opened, add: () => Promise<void>) {
  try {
    await add();
    return answerOf(await submission.commit());
  } catch (error) {
    await submission.abort();
    throw error;
  }
}

function answerOf({ batch, duplicate }: Awaited<ReturnType<Opened['commit']>>) {
  return { batch: toBatch(batch), duplicate };
}

/**
 * Validates one frame: the interceptor sees the stream only. Paths count from the batch's first
 * message.
 */
function checkFrame(frame: SubmitBatchStreamRequest, first: number): void {
  const { messages, options } = frame;
  if (options === undefined && messages.length <= limits.submitFrame && messages.every(isPlainlyValid)) return;
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

/**
 * The drafts with their line numbers, if the caller gave them. `first`: index of the first one in
 * the batch.
 */
function withLines(
  { messages, lines }: { readonly messages: readonly MessageDraft[]; readonly lines: readonly number[] },
  first: number,
): BatchDraft[] {
  if (lines.length !== 0 && lines.length !== messages.length)
    throw invalidField(
      'lines',
      `must have one entry per message or none, not ${lines.length} for ${messages.length} messages`,
    );
  return messages.map((each, index) => ({ ...toDraft(each, first + index), line: lines[index] }));
}

function toDraft(draft: MessageDraft, index: number): BatchDraft {
  const { sendAt } = draft;
  return { ...draft, sendAt: sendAt && timestampMs(`messages[${index}].send_at`, sendAt) };
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

const priorityNames: ReadonlyMap<BatchPriority, Priority> = new Map([
  [BatchPriority.LOW, 'low'],
  [BatchPriority.NORMAL, 'normal'],
  [BatchPriority.HIGH, 'high'],
]);
const priorityOfCost = new Map(
  [...priorityNames].map(([priority, name]) => [slotCost[name] as number, priority] as const),
);
const stateNames: ReadonlyMap<BatchState, State> = new Map([
  [BatchState.QUEUED, 'queued'],
  [BatchState.RUNNING, 'running'],
  [BatchState.CANCELLING, 'cancelling'],
  [BatchState.COMPLETED, 'completed'],
  [BatchState.CANCELLED, 'cancelled'],
]);
const stateOfName = new Map([...stateNames].map(([state, name]) => [name, state] as const));

export function toBatch(batch: StoredBatch): MessageInitShape<typeof BatchSchema> {
  const { counts, lastRefusal } = batch;
  const time = (ms: number | null) => (ms === null ? undefined : timestampFromMs(ms));
  const times = {
    sendAt: time(batch.sendAt),
    startedAt: time(batch.startedAt),
    endedAt: time(batch.endedAt),
    nextAt: time(batch.dueAt),
  };
  return {
    batchId: batch.batchId,
    name: batch.name,
    requestId: batch.requestId,
    state: stateOfName.get(batch.state) ?? BatchState.UNSPECIFIED,
    priority: priorityOfCost.get(batch.priority) ?? BatchPriority.UNSPECIFIED,
    messageCount: batch.messageCount,
    acceptedCount: counts.accepted,
    duplicateCount: counts.duplicates,
    refusedCount: counts.refused,
    createdAt: timestampFromMs(batch.createdAt),
    attempts: batch.attempts,
    ...Object.fromEntries(Object.entries(times).filter(([, value]) => value !== undefined)),
    ...(lastRefusal === null ? {} : { lastError: refusalOf(lastRefusal) }),
  };
}

function toResult(result: ResultsPage['results'][number]): MessageInitShape<typeof BatchResultSchema> {
  const { index, line = 0, clientMsgNo, messageId, messageSeq, duplicate, refusal, recipient } = result;
  return {
    index,
    line,
    clientMsgNo,
    messageId: BigInt(messageId),
    messageSeq: BigInt(messageSeq),
    duplicate,
    ...(refusal === undefined ? {} : { error: refusalOf(refusal) }),
    ...(recipient === undefined ? {} : { ...recipient, channelType: recipient.channelType as ChannelType }),
  };
}
