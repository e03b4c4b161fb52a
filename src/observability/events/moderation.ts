import { errorText } from '../error-text.ts';
import type { Log } from '../log.ts';
import { metrics } from '../metrics.ts';
import type { Registry } from '../registry.ts';

/** A call of the moderation hook. `skipped`: the circuit breaker is open. */
export interface HookCall {
  readonly ms: number;
  readonly outcome: 'ok' | 'failed' | 'skipped';
  readonly error?: unknown;
}

/** Events of the moderation hook. */
export function createModerationEvents(log: Log, registry: Registry) {
  const calls = registry.histogram(metrics.moderationHookDuration);
  return {
    /**
     * The moderation hook was called, or skipped. A setting decides whether messages pass without
     * its answer.
     */
    moderationHookCalled({ ms, outcome, error }: HookCall): void {
      calls.record(ms / 1000, { outcome });
      if (outcome === 'failed') log('moderationHookFailed', { cause: errorText(error), durationMs: Math.round(ms) });
      if (outcome === 'skipped') log('moderationHookSkipped');
    },
  };
}
