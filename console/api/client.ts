import { createSendbatch } from '../../src/client/index.ts';
import { currentCredential, session } from './session.ts';
import { createTransport } from './transport.ts';

const onError = session.onCallError;

/** The transport of queries and short calls. */
export const transport = createTransport({ credential: currentCredential, timeoutMs: 60_000, onError });

/** The transport of streams and uploads, which have no deadline. */
export const streamTransport = createTransport({ credential: currentCredential, onError });

/** The client for tails, watches and uploads, which resumes after interruptions. */
export const sendbatch = createSendbatch({
  transport: streamTransport,
  // A page that is left open overnight is live in the morning, whatever restarted meanwhile.
  retry: { longestPauseMs: 5_000, patienceMs: 86_400_000 },
});
