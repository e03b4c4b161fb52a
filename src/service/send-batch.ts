import { randomUUID } from 'node:crypto';
import { type Caller, notYours } from '../domain/caller.ts';
import { canonicalId, channel, messageSequence } from '../domain/channel.ts';
import { Failure, invalidField, malformed, type Violation } from '../domain/failure.ts';
import { type Draft, type Prepared, prepare } from '../domain/message.ts';
import { canExpect, type Outcome } from '../domain/plan.ts';
import { limits } from '../limits.ts';
import type { AppendBatch } from './lanes.ts';

/** A condition on a channel of the batch: its last sequence before the batch. */
export interface ExpectedLastSeq {
  readonly channelType: number;
  /** A person channel as the joined pair. */
  readonly channelId: string;
  readonly lastSeq: number;
}

/** A batch as a caller hands it in, already checked against the rules of the proto. */
export interface SendBatchCall {
  readonly messages: readonly Draft[];
  readonly atomic: boolean;
  readonly validateOnly: boolean;
  /** Empty: none. */
  readonly requestId: string;
  readonly expectedLastSeqs: readonly ExpectedLastSeq[];
  /** Aborted when the caller has gone away. */
  readonly signal?: AbortSignal;
  /** Who calls; what it may not send never meets the store. */
  readonly caller: Caller;
}

/** Sends a batch: one outcome a message, in order. A refused ATOMIC batch throws. */
export type SendBatch = (call: SendBatchCall) => Promise<readonly Outcome[]>;

/** The use case over an appender, and over a rehearsal for `validate_only`. */
export function createSendBatch(append: AppendBatch, rehearse: AppendBatch): SendBatch {
  return async (call) => {
    const messages = call.messages.map((draft, index) => prepare(draft, keyOf(draft, index, call.requestId)));
    const expectedLastSeqs = expectations(call.expectedLastSeqs, messages);
    const store = call.validateOnly ? rehearse : append;
    const outcomes = await withoutOthers(call, messages, (yours) =>
      store({ messages: yours, atomic: call.atomic, expectedLastSeqs }, call.signal),
    );
    if (call.atomic) assertAllAccepted(outcomes);
    return call.validateOnly ? outcomes.map(withoutNewNumbers) : outcomes;
  };
}

/** Lets through what the caller may send; what it may not is refused first, and learns nothing of the store. */
async function withoutOthers(
  { caller, atomic }: SendBatchCall,
  messages: readonly Prepared[],
  store: (yours: readonly Prepared[]) => Promise<readonly Outcome[]>,
): Promise<readonly Outcome[]> {
  if (caller.senders === undefined) return await store(messages);
  const refused = messages.map((message): Outcome | undefined => {
    const refusal = notYours(caller, message.fromUid);
    return refusal && { kind: 'refused', message, refusal };
  });
  const yours = messages.filter((_, index) => refused[index] === undefined);
  if (yours.length === messages.length) return await store(messages);
  if (atomic) assertAllAccepted(refused);
  const outcomes = (yours.length === 0 ? [] : await store(yours)).values();
  return refused.map((outcome) => outcome ?? (outcomes.next().value as Outcome));
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
