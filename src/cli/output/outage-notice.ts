import { ConnectError } from '@connectrpc/connect';
import { note } from './output.ts';

/**
 * Reports an outage of a service that had answered before: one line on stderr when it begins, one
 * when it ends.
 */
export interface OutageNotice {
  /** An attempt failed. */
  failed(error: unknown): void;
  /** The service answered. */
  answered(): void;
}

/** Failures that are not reported: after a lost connection the next attempt usually succeeds. */
const silentFailures = 2;

export function createOutageNotice(): OutageNotice {
  let hasAnswered = false;
  let failures = 0;
  return {
    failed(error) {
      failures++;
      if (hasAnswered && failures === silentFailures + 1)
        note(`service unreachable, retrying: ${ConnectError.from(error).rawMessage}`);
    },
    answered() {
      if (failures > silentFailures) note('the service answers again');
      hasAnswered = true;
      failures = 0;
    },
  };
}
