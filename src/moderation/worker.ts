/**
 * The thread of moderation: judges messages by one set of rules, so that no text and no pattern holds up the event loop. Rules come as `workerData`; then a
 * parcel is a message to this thread, and its verdicts are the answer.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { ExecutionTimeout, runWithTimeout, threadCpuMs } from '../overload/watchdog.ts';
import { createModerator, type Judgement, type Rule } from './rules.ts';

/** Messages of one call, with their payloads one after the other in `bytes`. */
export interface JudgeRequest {
  readonly bytes: Uint8Array;
  readonly messages: readonly JudgedMessage[];
  /** Milliseconds that one message may take. */
  readonly messageMs: number;
  /** Milliseconds after which no further message is begun: others have their turn. */
  readonly sliceMs: number;
}

interface JudgedMessage {
  readonly channelType: number;
  readonly tagKey: string;
  readonly payloadBytes: number;
}

/** What became of a parcel: of its first messages, at least one. `late`: it took too long. */
export interface JudgeResponse {
  readonly judgements: readonly (Judgement | 'late')[];
  readonly tookMs: number;
}

const moderator = createModerator(workerData as readonly Rule[]);
parentPort?.postMessage('ready');
parentPort?.on('message', (request: JudgeRequest) => parentPort?.postMessage(judgeRequest(request)));

function judgeRequest({ bytes, messages, messageMs, sliceMs }: JudgeRequest): JudgeResponse {
  const start = threadCpuMs();
  const judgements: (Judgement | 'late')[] = [];
  let begin = 0;
  const slice = () => {
    for (const { channelType, tagKey, payloadBytes } of messages.slice(judgements.length)) {
      const payload = bytes.subarray(begin, begin + payloadBytes);
      judgements.push(moderator?.({ channelType, tagKey, payload }) ?? { flaggedBy: [] });
      begin += payloadBytes;
      if (threadCpuMs() - start > sliceMs) return;
    }
  };
  // The watchdog goes by the clock. An attempt that had less of the processor than it may have is made again, with more time.
  for (let timeScale = 1; ; timeScale *= 2) {
    const began = threadCpuMs();
    try {
      runWithTimeout((messageMs + sliceMs) * timeScale, slice);
      break;
    } catch (error) {
      if (!(error instanceof ExecutionTimeout)) throw error;
      if (threadCpuMs() - began < messageMs && timeScale < maxTimeScale) continue;
      judgements.push('late');
      break;
    }
  }
  return { judgements, tookMs: threadCpuMs() - start };
}

/** Times the watchdog's time at most: 8 s where a message has 500 ms. */
const maxTimeScale = 16;
