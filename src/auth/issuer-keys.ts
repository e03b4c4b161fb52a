// The public keys of the token issuer (JWKS, RFC 7517), fetched and kept.
//
// Fetched at the first token, refreshed in the background when `refreshMs` old, and at once for a
// key id that is not among them. While the issuer is away the keys that are held stay in use for up
// to `staleMs`: a token signed by a known key needs no issuer. Only a failing fetch is the issuer's
// fault (IssuerKeysUnavailable); everything else is the token's.
import { setTimeout as delay } from 'node:timers/promises';
import { createRemoteJWKSet, customFetch, errors, type JWTVerifyGetKey } from 'jose';

/** The issuer's keys are needed and cannot be fetched: the validity of the token is unknown. */
export class IssuerKeysUnavailable extends Error {}

export interface IssuerKeysOptions {
  /** Age at which the keys are fetched again, in the background. */
  readonly refreshMs?: number;
  /** Age up to which keys are used while every refresh fails. */
  readonly staleMs?: number;
  /**
   * Least time between two fetches. Calls with an unknown key id wait for the next one, which they
   * share.
   */
  readonly cooldownMs?: number;
  readonly timeoutMs?: number;
  readonly now?: () => number;
  /** Called for a failed fetch, at most once per `reportMs` for the same cause. */
  readonly onFault?: ((error: unknown) => void) | undefined;
}

const reportMs = 30_000;
/** Longest pause after repeated failures: an issuer that is back is noticed within this time. */
const longestCooldownMs = 5000;
/** A key set has a few kilobytes; an answer of 300 MB took 2 GB of memory. */
const jwksBytes = 1024 * 1024;

export function createIssuerKeys(
  url: URL,
  {
    refreshMs = 600_000,
    staleMs = 24 * 3600_000,
    cooldownMs = 1000,
    timeoutMs = 5000,
    now = Date.now,
    onFault,
  }: IssuerKeysOptions = {},
): JWTVerifyGetKey {
  // jose shares a fetch under way and matches keys; when to fetch is decided here, so its own
  // timers are off.
  const keys = createRemoteJWKSet(url, {
    cacheMaxAge: Number.POSITIVE_INFINITY,
    cooldownDuration: Number.POSITIVE_INFINITY,
    timeoutDuration: timeoutMs,
    [customFetch]: fetchBounded,
  });
  let loadedAt: number | undefined;
  let failures = 0;
  let failed: { readonly error: IssuerKeysUnavailable; readonly at: number } | undefined;
  let reported: { readonly cause: string; readonly at: number } | undefined;

  async function load(): Promise<void> {
    const pauseMs = Math.min(cooldownMs * 2 ** (failures - 1), longestCooldownMs);
    if (failed !== undefined && now() - failed.at < pauseMs) throw failed.error;
    const isFirst = !keys.reloading;
    try {
      await keys.reload();
      loadedAt = now();
      failures = 0;
      failed = undefined;
    } catch (error) {
      if (isFirst) {
        failures += 1;
        failed = { error: new IssuerKeysUnavailable(describe(error), { cause: error }), at: now() };
        report(error);
      }
      throw failed?.error ?? new IssuerKeysUnavailable(describe(error), { cause: error });
    }
  }

  function report(error: unknown): void {
    const cause = describe(error);
    if (reported?.cause === cause && now() - reported.at < reportMs) return;
    reported = { cause, at: now() };
    onFault?.(error);
  }

  /**
   * Fetches because a key id is unknown: not more often than the cooldown allows, and once for all
   * that wait.
   */
  async function loadUnknown(seenAt: number): Promise<void> {
    const waitMs = seenAt + cooldownMs - now();
    if (waitMs > 0) await delay(waitMs);
    if (loadedAt === seenAt) await load();
  }

  return async (header, token) => {
    if (loadedAt === undefined || now() - loadedAt >= staleMs) await load();
    else if (now() - loadedAt >= refreshMs) void load().catch(() => {});
    const seenAt = loadedAt ?? now();
    try {
      try {
        return await keys(header, token);
      } catch (error) {
        if (!(error instanceof errors.JWKSNoMatchingKey)) throw error;
        await loadUnknown(seenAt);
        return await keys(header, token);
      }
    } catch (error) {
      if (error instanceof errors.JWKSNoMatchingKey || error instanceof errors.JWKSMultipleMatchingKeys) throw error;
      if (error instanceof IssuerKeysUnavailable) throw error;
      // A key of the set that cannot be imported.
      report(error);
      throw new IssuerKeysUnavailable(describe(error), { cause: error });
    }
  };
}

/** Reads at most `jwksBytes` of the answer, counted after decompression. */
async function fetchBounded(url: string, options: RequestInit): Promise<Response> {
  const response = await fetch(url, options);
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body ?? []) {
    bytes += chunk.byteLength;
    if (bytes > jwksBytes) throw new Error(`the JWKS is larger than ${jwksBytes} bytes`);
    chunks.push(chunk);
  }
  return new Response(bytes === 0 ? null : Buffer.concat(chunks), { status: response.status });
}

function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error ? `${error.message}: ${error.cause.message}` : error.message;
}
