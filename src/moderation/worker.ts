// The moderation thread: judges messages by one set of rules, so that no text and no pattern
// blocks the event loop. The rules are its `workerData`; it posts `ready` once they are compiled,
// then answers each JudgeRequest with a JudgeResponse.

import { parentPort, workerData } from 'node:worker_threads';
import { ExecutionTimeout, runWithTimeout, threadCpuMs } from '../overload/watchdog.ts';
import { createModerator, type Judgement, type Rule } from './rules.ts';

/** Messages to judge, with their payloads concatenated in `bytes`. */
export interface JudgeRequest {
  readonly bytes: Uint8Array;
  readonly messages: readonly JudgedMessage[];
  /** Maximum CPU milliseconds per message. */
  readonly messageMs: number;
  /** CPU milliseconds after which no further message is begun, so that other calls get a slice. */
  readonly sliceMs: number;
  /** Whether judgements name every rule that matches. */
  readonly explain: boolean;
}

interface JudgedMessage {
  readonly channelType: number;
  readonly tagKey: string;
  readonly payloadBytes: number;
}

/** Judgements of the first messages of a request, at least one. */
export interface JudgeResponse {
  readonly judgements: readonly (Judgement | 'timed_out')[];
  /** CPU milliseconds. */
  readonly tookMs: number;
}

const moderator = createModerator(workerData as readonly Rule[]);
parentPort?.postMessage('ready');
parentPort?.on('message', (request: JudgeRequest) => parentPort?.postMessage(judgeRequest(request)));

function judgeRequest({ bytes, messages, messageMs, sliceMs, explain }: JudgeRequest): JudgeResponse {
  const start = threadCpuMs();
  const judgements: (Judgement | 'timed_out')[] = [];
  let begin = 0;
  const slice = () => {
    for (const { channelType, tagKey, payloadBytes } of messages.slice(judgements.length)) {
      const payload = bytes.subarray(begin, begin + payloadBytes);
      judgements.push(moderator?.({ channelType, tagKey, payload, explain }) ?? { flaggedBy: [] });
      begin += payloadBytes;
      if (threadCpuMs() - start > sliceMs) return;
    }
  };
  // The watchdog measures elapsed time. An attempt that got too little CPU time is repeated with a
  // longer timeout.
  for (let timeScale = 1; ; timeScale *= 2) {
    const began = threadCpuMs();
    try {
      runWithTimeout((messageMs + sliceMs) * timeScale, slice);
      break;
    } catch (error) {
      if (!(error instanceof ExecutionTimeout)) throw error;
      if (threadCpuMs() - began < messageMs && timeScale < maxTimeScale) continue;
      judgements.push('timed_out');
      break;
    }
  }
  return { judgements, tookMs: threadCpuMs() - start };
}

/** Maximum factor of the watchdog's timeout: 8 s for the default of 500 ms per message. */
const maxTimeScale = 16;
