import { metrics } from './metrics.ts';
import type { Registry } from './registry.ts';

/**
 * Counts of a process since its start, read from its metrics. The overview shows their growth, so
 * that it agrees with `/metrics`.
 */
export interface ServiceCounts {
  readonly accepted: number;
  readonly duplicates: number;
  /** Refused messages by reason. */
  readonly refused: Readonly<Record<string, number>>;
  readonly calls: number;
  /** Calls that ended with an error of the caller. One that the caller cancelled is none. */
  readonly refusedCalls: number;
  /** Calls that the service failed. */
  readonly failedCalls: number;
  readonly rejectedRequests: number;
  /** Durations of calls that send, per bucket of `sendSecondsBounds` and above. */
  readonly sends: readonly number[];
  readonly tailMessages: number;
  readonly webhookMessages: number;
}

/** Upper bounds of the buckets of `sends`. */
export const sendSecondsBounds: readonly number[] = metrics.callDuration.bounds ?? [];

const sendMethods: ReadonlySet<unknown> = new Set(
  ['SendBatch', 'Send', 'Broadcast'].map((name) => `sendbatch.v1.MessageService/${name}`),
);
/** Status codes that are not the caller's fault. */
const failures: ReadonlySet<unknown> = new Set([
  'INTERNAL',
  'UNKNOWN',
  'UNAVAILABLE',
  'DATA_LOSS',
  'DEADLINE_EXCEEDED',
]);

/** Reads the counts so far. */
export function readServiceCounts(registry: Registry): ServiceCounts {
  const messages = { accepted: 0, duplicate: 0 };
  const refused: Record<string, number> = {};
  for (const { labels, sum } of registry.counts(metrics.messages)) {
    const { outcome, reason } = labels;
    if (outcome === 'refused') refused[String(reason)] = (refused[String(reason)] ?? 0) + sum;
    else if (outcome === 'accepted' || outcome === 'duplicate') messages[outcome] += sum;
  }
  const calls = { all: 0, refused: 0, failed: 0 };
  const sends = new Array<number>(sendSecondsBounds.length + 1).fill(0);
  for (const { labels, counts } of registry.buckets(metrics.callDuration)) {
    const ended = counts.reduce((sum, each) => sum + each, 0);
    const code = labels.rpc_response_status_code;
    calls.all += ended;
    if (code !== 'OK' && code !== 'CANCELLED') calls[failures.has(code) ? 'failed' : 'refused'] += ended;
    if (sendMethods.has(labels.rpc_method))
      for (const [index, each] of counts.entries()) sends[index] = (sends[index] ?? 0) + each;
  }
  return {
    accepted: messages.accepted,
    duplicates: messages.duplicate,
    refused,
    calls: calls.all,
    refusedCalls: calls.refused,
    failedCalls: calls.failed,
    rejectedRequests: sumOf(registry.counts(metrics.requestsRejected)),
    sends,
    tailMessages: sumOf(registry.counts(metrics.tailMessages)),
    webhookMessages: sumOf(
      registry.counts(metrics.webhookMessages).filter(({ labels }) => labels.outcome === 'delivered'),
    ),
  };
}

function sumOf(counts: readonly { readonly sum: number }[]): number {
  return counts.reduce((total, { sum }) => total + sum, 0);
}
