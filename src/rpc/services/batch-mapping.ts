// Maps batches between the proto and the capability: submissions, drafts, batches, results.

import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { HandlerContext } from '@connectrpc/connect';
import {
  type BatchOptions,
  BatchPriority,
  type BatchResultSchema,
  type BatchSchema,
  BatchState,
  RecallState,
} from '../../../gen/sendbatch/v1/batch_service_pb.ts';
import type { ChannelType, MessageDraft } from '../../../gen/sendbatch/v1/message_pb.ts';
import {
  type BatchDraft,
  type BatchPriority as Priority,
  type BatchState as State,
  slotCost,
} from '../../batches/batch.ts';
import type { ResultsPage, StoredBatch } from '../../batches/batches.ts';
import type { CallerSnapshot } from '../../batches/caller-snapshot.ts';
import type { SubmitCall } from '../../batches/submission.ts';
import { invalidField } from '../../messages/service-error.ts';
import { refusalOf } from '../error-mapping.ts';
import { callerOf } from '../request-context.ts';
import { requestIdOf } from '../request-id.ts';
import { timestampMs } from '../timestamps.ts';
import { formatOf } from './template-service.ts';

type Options = Omit<BatchOptions, '$typeName' | '$unknown' | 'messageCount'>;

export function toSubmitCall(
  options: Options | undefined,
  context: Pick<HandlerContext, 'values' | 'requestHeader'>,
): SubmitCall {
  return {
    caller: callerOf(context),
    requestId: requestIdOf(options?.requestId ?? '', context.requestHeader.get('idempotency-key')),
    sendAt: options?.sendAt && timestampMs('send_at', options.sendAt),
    priority: priorityNames.get(options?.priority ?? BatchPriority.UNSPECIFIED) ?? 'normal',
    name: options?.name ?? '',
    templates: (options?.templates ?? []).map(({ name, body, format }) => ({ name, body, format: formatOf(format) })),
  };
}

/**
 * The drafts with their line numbers, if the caller gave them. `first`: index of the first one in
 * the batch.
 */
export function toDrafts(
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

const priorityNames: ReadonlyMap<BatchPriority, Priority> = new Map([
  [BatchPriority.LOW, 'low'],
  [BatchPriority.NORMAL, 'normal'],
  [BatchPriority.HIGH, 'high'],
]);
const priorityOfCost = new Map(
  [...priorityNames].map(([priority, name]) => [slotCost[name] as number, priority] as const),
);
export const stateNames: ReadonlyMap<BatchState, State> = new Map([
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
    cancelledAt: time(batch.cancelledAt),
    recallRequestedAt: time(batch.recall?.requestedAt ?? null),
    recallEndedAt: time(batch.recall?.endedAt ?? null),
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
    submittedBy: (batch.caller as CallerSnapshot).name,
    ...(batch.cancelledBy === null ? {} : { cancelledBy: batch.cancelledBy }),
    ...toRecall(batch.recall),
    ...Object.fromEntries(Object.entries(times).filter(([, value]) => value !== undefined)),
    ...(lastRefusal === null ? {} : { lastError: refusalOf(lastRefusal) }),
  };
}

function toRecall(recall: StoredBatch['recall']) {
  if (recall === null) return {};
  return {
    recallState: recall.endedAt === null ? RecallState.RUNNING : RecallState.COMPLETED,
    recalledBy: recall.by,
    recalledCount: recall.counts.recalled,
    recallRefusedCount: recall.counts.tooOld,
    recallMissingCount: recall.counts.missing,
  };
}

export function toResult(
  result: ResultsPage['results'][number],
  channels: ResultsPage['channels'],
): MessageInitShape<typeof BatchResultSchema> {
  const { index, line = 0, clientMsgNo, messageId, messageSeq, duplicate, refusal, channelKey } = result;
  const stored = channelKey === undefined ? undefined : channels.get(channelKey);
  const recipient = result.recipient ?? (stored && { channelType: stored.type, channelId: stored.id });
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
