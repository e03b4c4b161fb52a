import type { lookup as systemLookup } from 'node:dns';
import { Webhook as Signer } from 'standardwebhooks';
import { Agent, request } from 'undici';
import { AddressRefused, publicLookup, urlFault } from './public-address.ts';
import { retryAfterMs, type Verdict, verdictOf, type WebhookFormat } from './webhook.ts';

/** What is posted, and where. */
export interface Post {
  readonly url: string;
  readonly format: WebhookFormat;
  /** Each signs; none: it is not signed. */
  readonly secrets: readonly string[];
  /** The `webhook-id`. */
  readonly id: string;
  readonly body: string;
}

/** What became of it. */
export interface Posted {
  /** `stopped`: it was given up because the service stops, and says nothing of the receiver. */
  readonly verdict: Verdict | 'stopped';
  /** 0: there was no answer. */
  readonly status: number;
  /** Empty when it is done. */
  readonly error: string;
  readonly retryAfterMs: number;
  readonly ms: number;
}

export interface Poster {
  post(post: Post, stop: AbortSignal): Promise<Posted>;
  close(): Promise<void>;
}

export interface PosterOptions {
  readonly timeoutMs: number;
  /** Also to addresses that are not public, and by http. */
  readonly allowPrivate: boolean;
  readonly userAgent: string;
  /** The DNS, if it is not the system's. */
  readonly lookup?: typeof systemLookup;
  /** Milliseconds since 1970; one clock for all instances. */
  readonly now?: () => number;
}

/** Of an answer's body nothing is read but so much that its connection may be used again. */
const bodyBytes = 16 * 1024;

/** Posts, once each. Redirects are not followed; nothing of the answer is kept but its status. It never throws. */
export function createPoster({ timeoutMs, allowPrivate, userAgent, lookup, now = Date.now }: PosterOptions): Poster {
  const agent = new Agent({
    connect: { timeout: timeoutMs, ...(allowPrivate ? {} : { lookup: publicLookup(lookup) }) },
    headersTimeout: timeoutMs,
    bodyTimeout: timeoutMs,
  });
  return {
    async post({ url, format, secrets, id, body }, stop) {
      const start = performance.now();
      const failed = (verdict: 'retry' | 'stopped', error: string): Posted => ({
        verdict,
        status: 0,
        error,
        retryAfterMs: 0,
        ms: performance.now() - start,
      });
      const fault = urlFault(url, allowPrivate);
      if (fault !== undefined) return failed('retry', `the URL ${fault}`);
      const timeout = AbortSignal.timeout(timeoutMs);
      try {
        const target = new URL(url);
        if (format === 'legacy') target.search += `${target.search === '' ? '?' : '&'}event=msg.notify`;
        const answer = await request(target, {
          method: 'POST',
          dispatcher: agent,
          signal: AbortSignal.any([timeout, stop]),
          headers: {
            'content-type': 'application/json',
            'user-agent': userAgent,
            ...signed(secrets, id, new Date(now()), body),
          },
          body,
        });
        // Its end is not waited for, only bounded: the status has said all.
        answer.body.dump({ limit: bodyBytes, signal: timeout }).catch(() => {});
        const verdict = verdictOf(format, answer.statusCode);
        const header = answer.headers['retry-after'];
        // A date of the receiver's is compared with the receiver's own clock.
        return {
          verdict,
          status: answer.statusCode,
          error: verdict === 'done' ? '' : `the receiver answered ${answer.statusCode}`,
          retryAfterMs: retryAfterMs(first(header), Date.parse(first(answer.headers.date) ?? '') || now()),
          ms: performance.now() - start,
        };
      } catch (error) {
        if (stop.aborted) return failed('stopped', 'the service is stopping');
        return failed('retry', timeout.aborted ? `no answer within ${timeoutMs} ms` : textOf(error));
      }
    },
    close: () => agent.destroy(),
  };
}

function first(header: string | string[] | undefined): string | undefined {
  return Array.isArray(header) ? header[0] : header;
}

/** The headers of Standard Webhooks; the time is this try's, so that a receiver may refuse what is old. */
function signed(secrets: readonly string[], id: string, at: Date, body: string): Record<string, string> {
  return {
    'webhook-id': id,
    'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
    ...(secrets.length === 0
      ? {}
      : { 'webhook-signature': secrets.map((secret) => new Signer(secret).sign(id, at, body)).join(' ') }),
  };
}

/** What failed, without what was sent or to where: that may hold secrets. */
function textOf(error: unknown): string {
  if (error instanceof AddressRefused) return error.message;
  if (error instanceof AggregateError) return textOf(error.errors[0]);
  const { code, name } = error as { code?: unknown; name?: unknown };
  return `no answer: ${typeof code === 'string' ? code : typeof name === 'string' ? name : 'unknown'}`;
}

/** Whether it is a secret that signs: `whsec_` and 24 to 64 bytes in base64, written as every library reads it. */
export function isSecret(text: string): boolean {
  const [, base64] = /^whsec_([A-Za-z0-9+/]+={0,2})$/.exec(text) ?? [];
  if (base64 === undefined) return false;
  const bytes = Buffer.from(base64, 'base64');
  return bytes.length >= 24 && bytes.length <= 64 && bytes.toString('base64') === base64;
}
