import type { Earlier, Outcome } from '../messages/append-plan.ts';
import { type PreparedMessage, prepareMessage } from '../messages/message.ts';
import { type Refusal, ServiceError } from '../messages/service-error.ts';
import type { SendBatch } from '../sending/send-batch.ts';
import type { TemplateText } from '../templates/template.ts';
import { secondMs } from '../time.ts';
import type { ChunkDraft } from './batch.ts';
import { type CallerSnapshot, restoreCaller } from './caller-snapshot.ts';
import type { ClaimedBatch, StoredChunk } from './claims.sql.ts';

/** Dependencies of a send of a chunk. */
export interface SendChunkParts {
  readonly sendBatch: SendBatch;
  /** Finds stored messages among these, by message key. */
  readonly findStored: (messages: readonly PreparedMessage[]) => Promise<ReadonlyMap<string, Earlier>>;
  /** Called with an error that is no refusal of a message. */
  readonly onError: (error: unknown) => void;
}

/**
 * Failed halves allowed while the message that fails its chunk is searched. 10 find one among
 * 1,000; if all 30 fail, the cause is no single message.
 */
const maxBisectFailures = 30;

/**
 * Retryable: an internal error may pass, and must not end a batch whose other messages can be sent.
 */
const internalRefusal: Refusal = {
  reason: 'INTERNAL',
  message: 'internal error; the cause is in the log',
  metadata: {},
  retryAfterMs: secondMs,
};

/**
 * Sends drafts of a chunk and returns an outcome or a refusal per draft. An internal error on a
 * repeated attempt bisects the drafts, so that only the failing message is refused.
 */
export async function sendChunk(
  { sendBatch, onError }: Pick<SendChunkParts, 'sendBatch' | 'onError'>,
  batch: ClaimedBatch,
  chunk: StoredChunk,
  pending: readonly ChunkDraft[],
): Promise<readonly (Outcome | Refusal)[]> {
  const templates = JSON.parse(batch.templates) as TemplateText[];
  const caller = restoreCaller(batch.caller as CallerSnapshot);
  // The first attempt does not bisect: most internal errors are transient.
  let failuresLeft = chunk.attempts === 0 ? 0 : maxBisectFailures;
  const send = async (drafts: readonly ChunkDraft[]): Promise<readonly (Outcome | Refusal)[]> => {
    if (drafts.length === 0) return [];
    try {
      const messages = drafts.map(({ draft }) => draft);
      const options = { atomic: false, validateOnly: false, requestId: '', expectedLastSeqs: [], at: chunk.dueAt };
      return await sendBatch({ messages, templates, caller, ...options });
    } catch (error) {
      if (error instanceof ServiceError) return drafts.map(() => error.refusal);
      if (drafts.length === 1 || failuresLeft === 0) {
        onError(error);
        return drafts.map(() => internalRefusal);
      }
      failuresLeft--;
      const half = Math.ceil(drafts.length / 2);
      // One half after the other: messages of a channel stay in order.
      return [...(await send(drafts.slice(0, half))), ...(await send(drafts.slice(half)))];
    }
  };
  return await send(pending);
}

/**
 * Tolerance for this process's estimate of the database's clock, which is exact to a round trip.
 */
export const clockErrorMs = secondMs;

/**
 * Finds refused messages that an earlier attempt of the chunk stored. A template, permission or
 * rule may have changed since; the stored message is the result all the same. A message accepted
 * before the chunk began belongs to another call.
 */
export async function findStoredEarlier(
  findStored: SendChunkParts['findStored'],
  chunk: StoredChunk,
  pending: readonly ChunkDraft[],
  outcomes: readonly (Outcome | Refusal)[],
): Promise<Map<number, Outcome>> {
  const refused = pending.flatMap((each, position) => {
    const outcome = outcomes[position];
    if (outcome === undefined || (!('reason' in outcome) && outcome.kind !== 'refused')) return [];
    return [{ index: each.index, message: prepareMessage(each.draft, each.draft.clientMsgNo) }];
  });
  if (refused.length === 0) return new Map();
  const found = await findStored(refused.map(({ message }) => message));
  return new Map(
    refused.flatMap(({ index, message }) => {
      const earlier = found.get(message.key);
      if (earlier === undefined || earlier.acceptedAt < chunk.begunAt - clockErrorMs) return [];
      const { messageId, messageSeq } = earlier;
      return [[index, { kind: 'duplicate', message, messageId, messageSeq }] as const];
    }),
  );
}
