import type { HandlerContext } from '@connectrpc/connect';
import type { RateLimitStatus } from '../../rate-limits/rate-limits.ts';

/** Sets the fields of draft-ietf-httpapi-ratelimit-headers, on every protocol. */
export function rateLimitHeaders({ responseHeader }: HandlerContext): (status: RateLimitStatus) => void {
  return ({ points, seconds, remaining, resetMs }) => {
    responseHeader.set('ratelimit-policy', `"caller";q=${points};w=${seconds}`);
    responseHeader.set('ratelimit', `"caller";r=${remaining};t=${Math.ceil(resetMs / 1000)}`);
  };
}
