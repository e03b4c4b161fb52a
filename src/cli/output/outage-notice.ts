import { ConnectError } from '@connectrpc/connect';
import { note } from './output.ts';

/** Says on stderr, once, that a service which was there is away. */
export interface Waiting {
  /** Told of each try that failed. */
  failed(error: unknown): void;
  /** Told of each answer. */
  answered(): void;
}

/** Failed tries that are not worth a word: a connection that was cut is there again, as a rule. */
const quietTries = 2;

export function createWaiting(): Waiting {
  let wasThere = false;
  let failures = 0;
  return {
    failed(error) {
      failures++;
      if (wasThere && failures === quietTries + 1)
        note(`waiting for the service: ${ConnectError.from(error).rawMessage}`);
    },
    answered() {
      if (failures > quietTries) note('the service is there again');
      wasThere = true;
      failures = 0;
    },
  };
}
