import { randomUUID } from 'node:crypto';
import { type Caller, notYours } from '../domain/caller.ts';
import { canonicalId, channel, messageSequence } from '../domain/channel.ts';
import { disclosedOutcomes } from '../domain/disclosure.ts';
import { Failure, invalidField, malformed, type Violation } from '../domain/failure.ts';
import { type Draft, type Prepared, prepare } from '../domain/message.ts';
import { type Accepted, canExpect, type Outcome } from '../domain/plan.ts';
import type { TemplateText } from '../domain/template.ts';
import { limits } from '../limits.ts';
import type { AppendBatch } from './lanes.ts';
import type { Moderate } from './moderation.ts';
import type { Rates, Standing } from './rates.ts';
import { orBusy } from './store-busy.ts';
import type { TemplatedDraft, Templates } from './templates.ts';

/** A condition on a channel of the batch: its last sequence before the batch. */
export interface ExpectedLastSeq {
  readonly channelType: number;
  /** A person channel as the joined pair. */
  readonly channelId: string;
  readonly lastSeq: number;
}

/** A batch as a caller hands it in, already checked against the rules of the proto. */
export interface SendBatchCall {
  readonly messages: readonly TemplatedDraft[];
  /** The request's own. */
  readonly templates?: readonly TemplateText[];
  readonly atomic: boolean;
  readonly validateOnly: boolean;
  /** Empty: none. */
  readonly requestId: string;
  readonly expectedLastSeqs: readonly ExpectedLastSeq[];
  /** Aborted when the caller has gone away. */
  readonly signal?: AbortSignal;
  /** Who calls; what it may not send never meets the store. */
  readonly caller: Caller;
  /** Told where the caller stands with its rate. */
  readonly tell?: (standing: Standing) => void;
}

/** Sends a batch: one outcome a message, in order. A refused ATOMIC batch throws. */
export type SendBatch = (call: SendBatchCall) => Promise<readonly Outcome[]>;

/** What a batch passes. */
export interface SendBatchParts {
  readonly append: AppendBatch;
  /** For `validate_only`, which no rate counts. */
  readonly rehearse: AppendBatch;
  readonly rates: Rates;
  readonly moderate: Moderate;
  readonly templates: Templates;
  /** Takes messages with no_persist to who is connected. */
  readonly deliver: (accepted: readonly Accepted[]) => Promise<void>;
}

/** The use case: the caller's own right, its rate, the content, and then the store, which asks for the sender's permission first. */
export function createSendBatch({ append, rehearse, rates, moderate, deliver, templates }: SendBatchParts): SendBatch {
  return async (call) => {
    const rendered = await templates.render(call.messages, call.templates ?? []);
    const messages = rendered.drafts.map((draft, index) => prepare(draft, keyOf(draft, index, call.requestId)));
    const expectedLastSeqs = expectations(call.expectedLastSeqs, messages);
    const refused = ofOthers(call.caller, messages);
    for (const [index, refusal] of rendered.refused) {
      const message = messages[index] as Prepared;
      if (!refused.has(message)) refused.set(message, { kind: 'refused', message, refusal });
    }
    if (call.atomic) assertAllAccepted(messages.map((message) => refused.get(message)));
    const admission = call.validateOnly ? undefined : await rates(call.caller, without(refused, messages));
    if (admission?.standing !== undefined) call.tell?.(admission.standing);
    for (const [message, refusal] of admission?.refused ?? [])
      refused.set(message, { kind: 'refused', message, refusal });
    try {
      if (call.atomic) assertAllAccepted(messages.map((message) => refused.get(message)));
      const admitted = without(refused, messages);
      const judged = await moderate(admitted);
      const batch = { ...judged, atomic: call.atomic, expectedLastSeqs };
      const appended = admitted.length === 0 ? [] : await (call.validateOnly ? rehearse : append)(batch, call.signal);
      const disclosed = disclosedOutcomes(call.caller, appended);
      if (call.atomic) assertAllAccepted(disclosed);
      const stored = call.validateOnly ? disclosed : await delivered(disclosed, call.atomic, deliver);
      await admission?.giveBack(admitted.filter((_, index) => stored[index]?.kind !== 'accepted'));
      const rest = stored.values();
      const outcomes = messages.map((message) => refused.get(message) ?? (rest.next().value as Outcome));
      return call.validateOnly ? outcomes.map(withoutNewNumbers) : outcomes;
    } catch (error) {
      // Nothing was stored, or nobody knows: it costs nothing either way.
      await admission?.giveBack(messages);
      throw error;
    }
  };
}

/**
 * Hands on the messages with no_persist. The others are committed by then: a failure is reported for these messages alone. An ATOMIC batch has no
 * results, so it fails with words that say what is stored.
 */
async function delivered(
  outcomes: readonly Outcome[],
  atomic: boolean,
  deliver: SendBatchParts['deliver'],
): Promise<readonly Outcome[]> {
  const live = outcomes.filter(isLive);
  if (live.length === 0) return outcomes;
  try {
    await orBusy(() => deliver(live));
    return outcomes;
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    const isAllLive = live.length === outcomes.length;
    if (isAllLive && atomic) throw error;
    const message = atomic
      ? 'the batch is stored, but its messages with no_persist were not handed on: send it again with the same keys, and what is stored is found as a duplicate'
      : 'a message with no_persist was not handed on to its readers; send it again';
    const refusal = { ...error.refusal, message };
    if (atomic) throw new Failure(refusal, { cause: error.cause });
    return outcomes.map((each) => (isLive(each) ? { kind: 'refused', message: each.message, refusal } : each));
  }
}

/** It was accepted and has no row. */
function isLive(outcome: Outcome): outcome is Accepted {
  return outcome.kind === 'accepted' && outcome.messageSeq === 0;
}

type Refused = Extract<Outcome, { kind: 'refused' }>;

/** What the caller may not send: it is refused first, and learns nothing of the store. */
function ofOthers(caller: Caller, messages: readonly Prepared[]): Map<Prepared, Refused> {
  const refused = new Map<Prepared, Refused>();
  if (caller.senders === undefined) return refused;
  for (const message of messages) {
    const refusal = notYours(caller, message.fromUid);
    if (refusal !== undefined) refused.set(message, { kind: 'refused', message, refusal });
  }
  return refused;
}

function without(refused: ReadonlyMap<Prepared, unknown>, messages: readonly Prepared[]): readonly Prepared[] {
  return refused.size === 0 ? messages : messages.filter((message) => !refused.has(message));
}

/** A made key is as good as unique; it exists so that every message has one to be told apart by. */
function keyOf(draft: Draft, index: number, requestId: string): string {
  if (draft.clientMsgNo !== '') return draft.clientMsgNo;
  return requestId === '' ? randomUUID() : `${requestId}:${index}`;
}

function expectations(expected: readonly ExpectedLastSeq[], messages: readonly Prepared[]): Map<string, number> {
  const byKey = new Map<string, number>();
  if (expected.length === 0) return byKey;
  const concerned = new Set(messages.filter(canExpect).map((message) => message.channel.key));
  const violations: Violation[] = [];
  for (const [index, { channelType, channelId, lastSeq }] of expected.entries()) {
    const refuse = (field: string, description: string) =>
      violations.push({ field: `expected_last_seqs[${index}].${field}`, description, reason: 'INVALID_FIELD' });
    const id = canonicalId(channelType, channelId);
    if (id === undefined) {
      refuse('channel_id', 'of a person channel must be the two uids joined with @');
      continue;
    }
    const { key } = channel(channelType, id, messageSequence);
    if (byKey.has(key)) refuse('channel_id', 'names a channel that another condition names too');
    else if (!concerned.has(key)) refuse('channel_id', 'names a channel to which the batch sends no numbered message');
    byKey.set(key, lastSeq);
  }
  if (violations.length > 0) throw malformed(violations);
  return byKey;
}

/** The first refusal fails an ATOMIC batch; the violations name them all. */
function assertAllAccepted(outcomes: readonly (Outcome | undefined)[]): void {
  const violations: Violation[] = [];
  let first: { index: number; refusal: Extract<Outcome, { kind: 'refused' }>['refusal'] } | undefined;
  for (const [index, outcome] of outcomes.entries()) {
    if (outcome?.kind !== 'refused') continue;
    const { refusal } = outcome;
    first ??= { index, refusal };
    violations.push({ field: `messages[${index}]`, description: refusal.message, reason: refusal.reason });
  }
  if (first === undefined) return;
  const { index, refusal } = first;
  throw new Failure(
    {
      ...refusal,
      message: `messages[${index}]: ${refusal.message} (${violations.length} of ${outcomes.length} refused; the batch is ATOMIC, nothing was stored)`,
      metadata: { ...refusal.metadata, index: String(index), refused: String(violations.length) },
    },
    { violations },
  );
}

/** A rehearsal numbers as the send would; those numbers belong to nobody. A duplicate of a stored message has its own. */
function withoutNewNumbers(outcome: Outcome): Outcome {
  if (outcome.kind === 'refused' || outcome.messageId >= limits.idsPerBlock) return outcome;
  return { ...outcome, messageId: 0, messageSeq: 0 };
}

/** The request's id: the field, or the header `Idempotency-Key`, which may be quoted as its draft standard has it. */
export function requestIdOf(field: string, idempotencyKey: string | null): string {
  if (idempotencyKey === null) return field;
  const header = /^"(.*)"$/.exec(idempotencyKey)?.[1] ?? idempotencyKey;
  if (field !== '' && header !== field)
    throw invalidField('request_id', 'and the header Idempotency-Key are both given and differ; give one');
  const bytes = Buffer.byteLength(header);
  if (bytes === 0 || bytes > limits.requestIdBytes) {
    throw invalidField('Idempotency-Key', `must be 1 to ${limits.requestIdBytes} bytes, has ${bytes}`, {
      limit: String(limits.requestIdBytes),
      actual: String(bytes),
    });
  }
  return header;
}
