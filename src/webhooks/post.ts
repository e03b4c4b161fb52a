import type { lookup as systemLookup } from 'node:dns';
import { Webhook as Signer } from 'standardwebhooks';
import type { Agent } from 'undici';
import { AddressRefused, createPublicLookup, findUrlFault } from './public-address.ts';
import { classifyStatus, parseRetryAfterMs, type Verdict, type WebhookFormat } from './webhook.ts';

/** A request to a receiver. */
export interface Post {
  readonly url: string;
  readonly format: WebhookFormat;
  /** One signature each; empty: the request is not signed. */
  readonly secrets: readonly string[];
  /** The `webhook-id`. */
  readonly id: string;
  readonly body: string;
}

/** The result of a POST. */
export interface PostResult {
  /** `stopped`: aborted because the service stops, which says nothing about the receiver. */
  readonly verdict: Verdict | 'stopped';
  /** 0: no answer. */
  readonly status: number;
  /** Empty on success. */
  readonly error: string;
  readonly retryAfterMs: number;
  readonly ms: number;
}

export interface Poster {
  post(post: Post, stop: AbortSignal): Promise<PostResult>;
  close(): Promise<void>;
}

export interface PosterOptions {
  readonly timeoutMs: number;
  /** Whether private addresses and http are allowed. */
  readonly allowPrivate: boolean;
  readonly userAgent: string;
  /** Unset: the system's DNS lookup. */
  readonly lookup?: typeof systemLookup;
  /** Milliseconds since 1970; one clock for all instances. */
  readonly now?: () => number;
}

/** Bytes of an answer's body that are read and discarded, so that the connection can be reused. */
const discardedBodyBytes = 16 * 1024;

/** Creates a poster: one attempt per call, without redirects. `post` never throws. */
export function createPoster({ timeoutMs, allowPrivate, userAgent, lookup, now = Date.now }: PosterOptions): Poster {
  let agent: Agent | undefined;
  // Loaded with the first request: its modules take 0.1 s of CPU at every start.
  const openClient = async () => {
    const { Agent, request } = await import('undici');
    agent ??= new Agent({
      connect: { timeout: timeoutMs, ...(allowPrivate ? {} : { lookup: createPublicLookup(lookup) }) },
      headersTimeout: timeoutMs,
      bodyTimeout: timeoutMs,
    });
    return { agent, request };
  };
  return {
    async post({ url, format, secrets, id, body }, stop) {
      const start = performance.now();
      const failed = (verdict: 'retry' | 'stopped', error: string): PostResult => ({
        verdict,
        status: 0,
        error,
        retryAfterMs: 0,
        ms: performance.now() - start,
      });
      const fault = findUrlFault(url, allowPrivate);
      if (fault !== undefined) return failed('retry', `the URL ${fault}`);
      const timeout = AbortSignal.timeout(timeoutMs);
      try {
        const target = new URL(url);
        if (format === 'legacy') target.search += `${target.search === '' ? '?' : '&'}event=msg.notify`;
        const { agent: dispatcher, request } = await openClient();
        const response = await request(target, {
          method: 'POST',
          dispatcher,
          signal: AbortSignal.any([timeout, stop]),
          headers: {
            'content-type': 'application/json',
            'user-agent': userAgent,
            ...signatureHeaders(secrets, id, new Date(now()), body),
          },
          body,
        });
        // Not awaited: the status decides, and the timeout bounds the rest.
        response.body.dump({ limit: discardedBodyBytes, signal: timeout }).catch(() => {});
        const verdict = classifyStatus(format, response.statusCode);
        const header = response.headers['retry-after'];
        // A date in Retry-After is compared with the receiver's own clock.
        return {
          verdict,
          status: response.statusCode,
          error: verdict === 'done' ? '' : `the receiver answered ${response.statusCode}`,
          retryAfterMs: parseRetryAfterMs(
            firstValue(header),
            Date.parse(firstValue(response.headers.date) ?? '') || now(),
          ),
          ms: performance.now() - start,
        };
      } catch (error) {
        if (stop.aborted) return failed('stopped', 'the service is stopping');
        return failed('retry', timeout.aborted ? `no answer within ${timeoutMs} ms` : describeError(error));
      }
    },
    async close() {
      await agent?.destroy();
    },
  };
}

function firstValue(header: string | string[] | undefined): string | undefined {
  return Array.isArray(header) ? header[0] : header;
}

/**
 * The headers of Standard Webhooks. The timestamp is the attempt's, so that a receiver can refuse
 * old requests.
 */
function signatureHeaders(secrets: readonly string[], id: string, at: Date, body: string): Record<string, string> {
  return {
    'webhook-id': id,
    'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
    ...(secrets.length === 0
      ? {}
      : { 'webhook-signature': secrets.map((secret) => new Signer(secret).sign(id, at, body)).join(' ') }),
  };
}

/** Describes a failure without the URL and the body, which may contain secrets. */
function describeError(error: unknown): string {
  if (error instanceof AddressRefused) return error.message;
  if (error instanceof AggregateError) return describeError(error.errors[0]);
  const { code, name } = error as { code?: unknown; name?: unknown };
  return `no answer: ${typeof code === 'string' ? code : typeof name === 'string' ? name : 'unknown'}`;
}

/**
 * Whether a text is a signing secret: `whsec_` and 24 to 64 bytes in canonical base64, which every
 * library reads alike.
 */
export function isSecret(text: string): boolean {
  const [, base64] = /^whsec_([A-Za-z0-9+/]+={0,2})$/.exec(text) ?? [];
  if (base64 === undefined) return false;
  const bytes = Buffer.from(base64, 'base64');
  return bytes.length >= 24 && bytes.length <= 64 && bytes.toString('base64') === base64;
}
