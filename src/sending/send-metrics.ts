import type { Outcome } from '../messages/append-plan.ts';
import { ServiceError } from '../messages/service-error.ts';
import type { SendBatch } from './send-batch.ts';

/** Results of a batch, counted. */
export interface BatchCounts {
  readonly messages: number;
  readonly accepted: number;
  readonly duplicates: number;
  /** By reason. */
  readonly refused: ReadonlyMap<string, number>;
  /** Of those refused: over a rate, by what it counts. */
  readonly limited: ReadonlyMap<string, number>;
}

/**
 * Reports the counts of each batch: by outcome, or one reason for all messages of a batch that
 * failed. Dry runs do not count.
 */
export function withSendMetrics(sendBatch: SendBatch, onCounts: (counts: BatchCounts, ms: number) => void): SendBatch {
  return async (call) => {
    if (call.validateOnly) return await sendBatch(call);
    const began = performance.now();
    try {
      const outcomes = await sendBatch(call);
      onCounts(countOutcomes(outcomes), performance.now() - began);
      return outcomes;
    } catch (error) {
      const reason =
        error instanceof ServiceError ? error.refusal.reason : call.signal?.aborted ? 'CANCELLED' : 'INTERNAL';
      const messages = call.messages.length;
      const none = { messages, accepted: 0, duplicates: 0, refused: new Map([[reason, messages]]), limited: new Map() };
      onCounts(none, performance.now() - began);
      throw error;
    }
  };
}

function countOutcomes(outcomes: readonly Outcome[]): BatchCounts {
  let accepted = 0;
  let duplicates = 0;
  const refused = new Map<string, number>();
  const limited = new Map<string, number>();
  for (const outcome of outcomes) {
    if (outcome.kind === 'accepted') accepted++;
    else if (outcome.kind === 'duplicate') duplicates++;
    else {
      const { reason, metadata } = outcome.refusal;
      refused.set(reason, (refused.get(reason) ?? 0) + 1);
      if (reason === 'RATE_LIMITED' && metadata.by !== undefined)
        limited.set(metadata.by, (limited.get(metadata.by) ?? 0) + 1);
    }
  }
  return { messages: outcomes.length, accepted, duplicates, refused, limited };
}
