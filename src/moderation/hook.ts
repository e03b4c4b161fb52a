import { setImmediate } from 'node:timers/promises';
import { BrokenCircuitError, ConsecutiveBreaker, circuitBreaker, handleAll } from 'cockatiel';
import { limits } from '../limits.ts';
import type { PreparedMessage } from '../messages/message.ts';
import type { Refusal } from '../messages/service-error.ts';
import { secondMs } from '../time.ts';

/** The hook's decision about a message; `unavailable`: it did not answer. */
export type HookVerdict =
  | { readonly action: 'allow' | 'refuse' | 'flag' }
  | { readonly action: 'mask'; readonly payload: Uint8Array }
  | { readonly action: 'unavailable'; readonly refusal: Refusal };

/** Asks the hook about messages in one call; returns one verdict per message. Never throws. */
export type ModerationHook = (messages: readonly PreparedMessage[]) => Promise<readonly HookVerdict[]>;

export interface HookOptions {
  readonly url: string;
  readonly timeoutMs: number;
  /** Without an answer: `open` accepts all messages, `closed` refuses them. */
  readonly onFailure: 'open' | 'closed';
  /** Called after each call; `skipped`: the circuit breaker was open. */
  readonly onCall: (call: { ms: number; outcome: 'ok' | 'failed' | 'skipped'; error?: unknown }) => void;
  /** Further headers of the request, such as trace context. */
  readonly headers?: () => Record<string, string>;
}

/** Consecutive failures that open the circuit breaker. */
const failuresBeforeBreak = 5;
/** Time for which the open breaker skips calls. */
const breakMs = 10 * secondMs;
const retryAfterMs = secondMs;

/**
 * Creates a hook over HTTP, without redirects. Payloads are base64:
 *
 * - request: `{"messages": [{from_uid, channel_id, channel_type, client_msg_no, tag_key,
 *   payload}]}`
 * - answer: `{"results": [{"action": "allow" | "refuse" | "flag" | "mask", "payload"}]}`
 */
export function createHook({ url, timeoutMs, onFailure, onCall, headers = () => ({}) }: HookOptions): ModerationHook {
  const breaker = circuitBreaker(handleAll, {
    halfOpenAfter: breakMs,
    breaker: new ConsecutiveBreaker(failuresBeforeBreak),
  });
  const unavailable: HookVerdict =
    onFailure === 'open'
      ? { action: 'allow' }
      : {
          action: 'unavailable',
          refusal: {
            reason: 'STORE_BUSY',
            message: 'the moderation hook does not answer, and messages need its approval; retry',
            metadata: {},
            retryAfterMs,
          },
        };
  return async (messages) => {
    const start = performance.now();
    try {
      const verdicts = await breaker.execute(() => postMessages(url, timeoutMs, headers(), messages));
      onCall({ ms: performance.now() - start, outcome: 'ok' });
      return verdicts;
    } catch (error) {
      const outcome = error instanceof BrokenCircuitError ? 'skipped' : 'failed';
      onCall({ ms: performance.now() - start, outcome, error });
      return messages.map(() => unavailable);
    }
  };
}

async function postMessages(
  url: string,
  timeoutMs: number,
  headers: Record<string, string>,
  messages: readonly PreparedMessage[],
): Promise<HookVerdict[]> {
  const body = await encodeBody(messages);
  const response = await fetch(url, {
    method: 'POST',
    redirect: 'error',
    signal: AbortSignal.timeout(timeoutMs),
    headers: { ...headers, 'content-type': 'application/json' },
    body,
  });
  if (!response.ok) {
    await response.body?.cancel();
    throw new Error(`the moderation hook answered ${response.status}`);
  }
  const { results } = (await response.json()) as { results?: unknown };
  if (!Array.isArray(results) || results.length !== messages.length)
    throw new Error(`the moderation hook answered no list of ${messages.length} results`);
  return results.map(parseVerdict);
}

/** Bytes encoded before yielding to the event loop: the largest batch takes 155 ms in all. */
const sliceBytes = 1024 * 1024;

async function encodeBody(messages: readonly PreparedMessage[]): Promise<Buffer<ArrayBuffer>> {
  const parts: Buffer[] = [Buffer.from('{"messages":[')];
  let bytes = 0;
  for (const [index, message] of messages.entries()) {
    const part = Buffer.from(`${index === 0 ? '' : ','}${JSON.stringify(toJson(message))}`);
    parts.push(part);
    bytes += part.length;
    if (bytes < sliceBytes) continue;
    bytes = 0;
    await setImmediate();
  }
  parts.push(Buffer.from(']}'));
  return Buffer.concat(parts);
}

function toJson({ fromUid, channel, clientMsgNo, tagKey, payload }: PreparedMessage): object {
  return {
    from_uid: fromUid,
    channel_id: channel.id,
    channel_type: channel.type,
    client_msg_no: clientMsgNo,
    tag_key: tagKey,
    payload: Buffer.from(payload).toString('base64'),
  };
}

function parseVerdict(result: unknown): HookVerdict {
  const { action, payload } = (result ?? {}) as { action?: unknown; payload?: unknown };
  if (action === 'allow' || action === 'refuse' || action === 'flag') return { action };
  if (action === 'mask' && typeof payload === 'string') {
    const bytes = Buffer.from(payload, 'base64');
    if (bytes.length >= 1 && bytes.length <= limits.payloadBytes) return { action, payload: bytes };
  }
  throw new Error('the moderation hook answered a result that is none');
}
