// Sends one batch: the use case behind SendBatch, its JSON routes, broadcasts and submitted
// batches.
//
// Steps, cheap ones first: the caller's own senders, its rate limits, templates, moderation, the
// append, delivery of messages that are not stored. Invariants:
//  1. One outcome per message, in order. A refused ATOMIC batch throws and stores nothing.
//  2. An earlier send goes before a rate limit: a retry is answered with what was stored.
//  3. A message that the caller may not send never reaches the store, so its refusal discloses
//     nothing.

import { randomUUID } from 'node:crypto';
import { limits } from '../limits.ts';
import { type Accepted, canExpect, type Outcome } from '../messages/append-plan.ts';
import { type Caller, senderDenial } from '../messages/caller.ts';
import type { Cancellation } from '../messages/cancellation.ts';
import { canonicalId, channel, messageSequence } from '../messages/channel.ts';
import { disclosed, disclosedOutcomes } from '../messages/disclosure.ts';
import { type Draft, type PreparedMessage, prepareMessage } from '../messages/message.ts';
import { PlainMessage } from '../messages/plain-message.ts';
import { malformed, type Refusal, ServiceError, type Violation } from '../messages/service-error.ts';
import { orBusy } from '../messages/store-busy.ts';
import type { Moderate } from '../moderation/moderation.ts';
import type { RateLimitDecision, RateLimitStatus, Rates } from '../rate-limits/rate-limits.ts';
import type { TemplatedDraft } from '../templates/render-drafts.ts';
import type { TemplateText } from '../templates/template.ts';
import type { Templates } from '../templates/templates.ts';
import type { AppendBatch } from './lanes.ts';

/** A condition on a channel of the batch: its last sequence before the batch. */
export interface ExpectedLastSeq {
  readonly channelType: number;
  /** A person channel as the joined pair. */
  readonly channelId: string;
  readonly lastSeq: number;
}

/** A batch as a caller submits it, validated against the rules of the proto. */
export interface SendBatchCall {
  readonly messages: readonly TemplatedDraft[];
  /** Templates of the request itself. */
  readonly templates?: readonly TemplateText[];
  readonly atomic: boolean;
  readonly validateOnly: boolean;
  /** Empty when the request has none. */
  readonly requestId: string;
  readonly expectedLastSeqs: readonly ExpectedLastSeq[];
  /** Aborts when the caller disconnects. */
  readonly signal?: Cancellation;
  readonly caller: Caller;
  /**
   * The value of `now` in its templates, in milliseconds since 1970; unset: the time of rendering.
   */
  readonly at?: number;
  /** Receives the caller's rate limit status. */
  readonly onRateLimit?: (status: RateLimitStatus) => void;
}

/** Sends a batch: one outcome per message, in order. A refused ATOMIC batch throws. */
export type SendBatch = (call: SendBatchCall) => Promise<readonly Outcome[]>;

/** The steps of a send. */
export interface SendBatchParts {
  readonly append: AppendBatch;
  /** The same decisions without effects: for `validate_only`, and to find earlier sends. */
  readonly dryRun: AppendBatch;
  readonly rates: Rates;
  readonly moderate: Moderate;
  readonly templates: Templates;
  /** Delivers messages with no_persist to connected readers. */
  readonly deliver: (accepted: readonly Accepted[]) => Promise<void>;
}

export function createSendBatch(parts: SendBatchParts): SendBatch {
  const { append, dryRun, rates, moderate, deliver } = parts;
  return async (call) => {
    const { caller, signal, validateOnly } = call;
    const messages = call.messages.map((draft, index) => prepared(draft, index, call.requestId));
    const expectedLastSeqs = expectations(call.expectedLastSeqs, messages);
    const refused = denyForeignSenders(caller, messages);
    const refuseAtomic = () => {
      if (call.atomic && refused.size > 0) throw notAllAccepted(refused, messages.length);
    };
    refuseAtomic();
    const admitting = rates(caller, without(refused, messages), validateOnly ? 'peek' : undefined);
    // Here and below: awaits only what is pending, which for most calls is the append alone.
    const admission = admitting instanceof Promise ? await admitting : admitting;
    if (admission.status !== undefined) call.onRateLimit?.(admission.status);
    try {
      if (admission.refused.size > 0) await refuseOverRate(parts, call, messages, { admission, refused });
      refuseAtomic();
      const rendered = usesTemplates(call) ? await render(parts, call, messages, refused) : messages;
      refuseAtomic();
      const admitted = without(refused, rendered);
      const judging = moderate(admitted, { caller: caller.id, signal });
      const judged = judging instanceof Promise ? await judging : judging;
      const batch = { ...judged, atomic: call.atomic, expectedLastSeqs };
      const appended = admitted.length === 0 ? [] : await (validateOnly ? dryRun : append)(batch, signal);
      const answers = disclosedOutcomes(caller, appended);
      if (call.atomic) assertAllAccepted(answers);
      const isDelivered = validateOnly || !answers.some(isLive);
      const stored = isDelivered ? answers : await delivered(answers, call.atomic, deliver);
      if (!admission.isFree)
        await admission.refund(without(refused, messages).filter((_, index) => stored[index]?.kind !== 'accepted'));
      const outcomes = withRefused(messages, stored, refused);
      if (!admission.isFree) await admission.charge(validateOnly ? messages.length : countRefused(outcomes));
      return validateOnly ? outcomes.map(withoutNewNumbers) : outcomes;
    } catch (error) {
      // Nothing was stored, or it is unknown. A refusal that the caller could have foreseen is
      // charged all the same.
      await admission.refund(messages);
      if (error instanceof ServiceError && error.refusal.retryAfterMs === undefined)
        await admission.charge(messages.length);
      throw error;
    }
  };
}

/**
 * Delivers the messages with no_persist. The others are committed by then, so that a failure is
 * reported for these alone. An ATOMIC batch has no results: it fails with a message that names what
 * is stored.
 */
async function delivered(
  outcomes: readonly Outcome[],
  atomic: boolean,
  deliver: SendBatchParts['deliver'],
): Promise<readonly Outcome[]> {
  const live = outcomes.filter(isLive);
  try {
    await orBusy(() => deliver(live));
    return outcomes;
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    const isAllLive = live.length === outcomes.length;
    if (isAllLive && atomic) throw error;
    const message = atomic
      ? 'the batch is stored, but its no_persist messages were not delivered; send it again with the same keys: stored messages are answered as duplicates'
      : 'the no_persist message was not delivered to its readers; send it again';
    const refusal = { ...error.refusal, message };
    if (atomic) throw new ServiceError(refusal, { cause: error.cause });
    return outcomes.map((each) => (isLive(each) ? { kind: 'refused', message: each.message, refusal } : each));
  }
}

/** Refuses messages over a rate limit, except retries of stored ones, which cost nothing. */
async function refuseOverRate(
  { dryRun }: SendBatchParts,
  call: SendBatchCall,
  messages: readonly PreparedMessage[],
  { admission, refused }: { admission: RateLimitDecision; refused: Map<number, Refusal> },
): Promise<void> {
  const over = messages.flatMap((message, index) => (admission.refused.has(message) ? [{ message, index }] : []));
  const isRetriable = ({ index }: { index: number }) =>
    call.messages[index]?.clientMsgNo !== '' || call.requestId !== '';
  const retries = over.filter(isRetriable);
  const batch = {
    messages: retries.map(({ message }) => message),
    atomic: false,
    expectedLastSeqs: new Map(),
    refused: admission.refused,
  };
  const outcomes = retries.length === 0 ? [] : await dryRun(batch, call.signal);
  const found = new Map(retries.map(({ index }, at) => [index, outcomes[at]]));
  for (const { message, index } of over) {
    const outcome = found.get(index);
    if (outcome?.kind === 'duplicate') continue;
    const refusal = outcome?.kind === 'refused' ? outcome.refusal : admission.refused.get(message);
    // The content of a templated message is known after rendering: equality with the stored one is
    // decided then.
    if (refusal?.reason === 'CLIENT_MSG_NO_REUSED' && call.messages[index]?.template !== undefined) continue;
    if (refusal !== undefined) refused.set(index, disclosed(call.caller, refusal));
  }
}

/** Renders the templates of messages that are not refused. */
async function render(
  { templates }: SendBatchParts,
  call: SendBatchCall,
  messages: readonly PreparedMessage[],
  refused: Map<number, Refusal>,
): Promise<readonly PreparedMessage[]> {
  const { caller, signal, at } = call;
  const options = { caller: caller.id, signal, at, skip: (index: number) => refused.has(index) };
  const rendered = await templates.render(call.messages, call.templates ?? [], options);
  if (rendered.drafts === call.messages) return messages;
  return messages.map((message, index) => {
    if (call.messages[index]?.template === undefined || refused.has(index)) return message;
    const refusal = rendered.refused.get(index);
    const draft = rendered.drafts[index];
    if (refusal === undefined) return draft === undefined ? message : prepareMessage(draft, message.clientMsgNo);
    refused.set(index, refusal);
    return message;
  });
}

function usesTemplates({ messages, templates = [] }: SendBatchCall): boolean {
  return templates.length > 0 || messages.some((draft) => draft.template !== undefined);
}

/** Whether a message was accepted and not stored. */
function isLive(outcome: Outcome): outcome is Accepted {
  return outcome.kind === 'accepted' && outcome.messageSeq === 0;
}

/** Refusals, by index, of messages whose sender the caller may not use. */
function denyForeignSenders(caller: Caller, messages: readonly PreparedMessage[]): Map<number, Refusal> {
  const refused = new Map<number, Refusal>();
  if (caller.senders === undefined) return refused;
  for (const [index, message] of messages.entries()) {
    const refusal = senderDenial(caller, message.fromUid);
    if (refusal !== undefined) refused.set(index, refusal);
  }
  return refused;
}

function without(
  refused: ReadonlyMap<number, unknown>,
  messages: readonly PreparedMessage[],
): readonly PreparedMessage[] {
  return refused.size === 0 ? messages : messages.filter((_, index) => !refused.has(index));
}

/** The outcomes of all messages: those of admitted ones, in order, and the early refusals. */
function withRefused(
  messages: readonly PreparedMessage[],
  admitted: readonly Outcome[],
  refused: ReadonlyMap<number, Refusal>,
): readonly Outcome[] {
  if (refused.size === 0) return admitted;
  const rest = admitted.values();
  return messages.map((message, index): Outcome => {
    const refusal = refused.get(index);
    return refusal === undefined ? (rest.next().value as Outcome) : { kind: 'refused', message, refusal };
  });
}

/** Counts refusals caused by the caller: not those of a busy store. */
function countRefused(outcomes: readonly Outcome[]): number {
  let count = 0;
  for (const outcome of outcomes)
    if (
      outcome.kind === 'refused' &&
      (outcome.refusal.retryAfterMs === undefined || outcome.refusal.reason === 'RATE_LIMITED')
    )
      count++;
  return count;
}

function prepared(draft: Draft, index: number, requestId: string): PreparedMessage {
  if (draft instanceof PlainMessage && draft.hasKey) return draft.prepare();
  return prepareMessage(draft, keyOf(draft, index, requestId));
}

/** The once-only key of a message: its own, one derived from the request id, or a random one. */
function keyOf(draft: Draft, index: number, requestId: string): string {
  if (draft.clientMsgNo !== '') return draft.clientMsgNo;
  return requestId === '' ? randomUUID() : `${requestId}:${index}`;
}

/** Shared by all batches without conditions. */
const noExpectations: ReadonlyMap<string, number> = new Map();

function expectations(
  expected: readonly ExpectedLastSeq[],
  messages: readonly PreparedMessage[],
): ReadonlyMap<string, number> {
  if (expected.length === 0) return noExpectations;
  const byKey = new Map<string, number>();
  const concerned = new Set(messages.filter(canExpect).map((message) => message.channel.key));
  const violations: Violation[] = [];
  for (const [index, { channelType, channelId, lastSeq }] of expected.entries()) {
    const refuse = (field: string, description: string) =>
      violations.push({ field: `expected_last_seqs[${index}].${field}`, description, reason: 'INVALID_FIELD' });
    const id = canonicalId(channelType, channelId);
    if (id === undefined) {
      refuse('channel_id', 'must be the two uids joined with @ for a person channel');
      continue;
    }
    const { key } = channel(channelType, id, messageSequence);
    if (byKey.has(key)) refuse('channel_id', 'must not repeat the channel of another condition');
    else if (!concerned.has(key)) refuse('channel_id', 'must be the channel of a numbered message of this batch');
    byKey.set(key, lastSeq);
  }
  if (violations.length > 0) throw malformed(violations);
  return byKey;
}

function assertAllAccepted(outcomes: readonly Outcome[]): void {
  const refused = new Map<number, Refusal>();
  for (const [index, outcome] of outcomes.entries())
    if (outcome.kind === 'refused') refused.set(index, outcome.refusal);
  if (refused.size > 0) throw notAllAccepted(refused, outcomes.length);
}

/** The error of an ATOMIC batch: its first refusal, with a violation per refused message. */
function notAllAccepted(refused: ReadonlyMap<number, Refusal>, count: number): ServiceError {
  const inOrder = [...refused].sort(([a], [b]) => a - b);
  const [[index, refusal]] = inOrder as [[number, Refusal]];
  const violations: Violation[] = inOrder.map(([at, { message, reason }]) => ({
    field: `messages[${at}]`,
    description: message,
    reason,
  }));
  return new ServiceError(
    {
      ...refusal,
      message: `messages[${index}]: ${refusal.message} (${refused.size} of ${count} refused; the batch is ATOMIC, nothing was stored)`,
      metadata: { ...refusal.metadata, index: String(index), refused: String(refused.size) },
    },
    { violations },
  );
}

/**
 * Removes the numbers that a dry run computed but did not assign. A duplicate of a stored message
 * keeps its own.
 */
function withoutNewNumbers(outcome: Outcome): Outcome {
  if (outcome.kind === 'refused' || outcome.messageId >= limits.idsPerBlock) return outcome;
  return { ...outcome, messageId: 0, messageSeq: 0 };
}
