import type { Outcome } from '../messages/append-plan.ts';
import { ServiceError } from '../messages/service-error.ts';
import type { SendCounts } from '../observability/events/sending.ts';
import type { SendBatch } from './send-batch.ts';

/**
 * Reports the counts of each batch: by outcome, or one reason for all messages of a batch that
 * failed. Dry runs do not count.
 */
export function withSendMetrics(sendBatch: SendBatch, onCounts: (counts: SendCounts, ms: number) => void): SendBatch {
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
      const refused = call.messages.length;
      const refusedByReason = new Map([[reason, refused]]);
      const counts = { accepted: 0, duplicates: 0, refused, refusedByReason, refusedByLimit: none };
      onCounts(counts, performance.now() - began);
      throw error;
    }
  };
}

/** Shared by all batches without a refusal. */
const none: ReadonlyMap<string, number> = new Map();

function countOutcomes(outcomes: readonly Outcome[]): SendCounts {
  let accepted = 0;
  let duplicates = 0;
  let refusedByReason: Map<string, number> | undefined;
  let refusedByLimit: Map<string, number> | undefined;
  for (const outcome of outcomes) {
    if (outcome.kind === 'accepted') accepted++;
    else if (outcome.kind === 'duplicate') duplicates++;
    else {
      const { reason, metadata } = outcome.refusal;
      refusedByReason = plusOne(refusedByReason, reason);
      if (reason === 'RATE_LIMITED' && metadata.by !== undefined) refusedByLimit = plusOne(refusedByLimit, metadata.by);
    }
  }
  const refused = outcomes.length - accepted - duplicates;
  return {
    accepted,
    duplicates,
    refused,
    refusedByReason: refusedByReason ?? none,
    refusedByLimit: refusedByLimit ?? none,
  };
}

function plusOne(counts: Map<string, number> = new Map(), key: string): Map<string, number> {
  return counts.set(key, (counts.get(key) ?? 0) + 1);
}
