import type { IncomingHttpHeaders } from 'node:http';
import { cors } from '@connectrpc/connect';

/** The parts of a request that are checked. */
interface CheckedRequest {
  readonly method?: string | undefined;
  readonly url?: string | undefined;
  readonly headers: IncomingHttpHeaders;
}

/** Whether a request may enter, and the CORS headers of its answer. */
export type Verdict =
  | { readonly kind: 'pass'; readonly headers: Record<string, string> }
  | { readonly kind: 'preflight'; readonly status: 204; readonly headers: Record<string, string> }
  | { readonly kind: 'refuse'; readonly status: 403; readonly message: string };

export type OriginCheck = (request: CheckedRequest) => Verdict;

/** Seconds that a browser may cache a preflight's answer; Chromium caps it at two hours. */
const preflightSeconds = '7200';
const ownRequestHeaders = [
  'authorization',
  'token',
  'idempotency-key',
  'x-request-id',
  'last-event-id',
  'traceparent',
  'tracestate',
  'baggage',
  'sentry-trace',
  'x-requested-with',
];
const ownExposedHeaders = ['x-request-id', 'retry-after', 'ratelimit', 'ratelimit-policy', 'allow'];

/**
 * Protects a service that accepts any Content-Type from web pages of other sites; all of CORS is
 * here. Refuses (403):
 * 1. Without authentication, a Host that is not a loopback name: a page whose name is rebound to
 *    127.0.0.1 still sends its own name.
 * 2. An Origin that is neither allowed nor the service's own.
 * 3. Without an Origin, what Fetch Metadata says another site has sent.
 */
export function createOriginCheck(options: {
  open: boolean;
  allowedOrigins: 'default' | readonly string[];
}): OriginCheck {
  const allows = originRule(options.allowedOrigins);
  return ({ method, url, headers }) => {
    const host = hostOf(headers);
    if (options.open && host !== undefined && !isLoopbackHost(host)) {
      return {
        kind: 'refuse',
        status: 403,
        message: `Host ${JSON.stringify(host)} is refused: without authentication only loopback names are served; call localhost, or set AUTH=off if every caller is trusted`,
      };
    }
    const { origin } = headers;
    if (origin === undefined) {
      if (!isCrossSite(headers) || isPageNavigation(method, url, headers) || options.allowedOrigins.includes('*'))
        return { kind: 'pass', headers: {} };
      return {
        kind: 'refuse',
        status: 403,
        message:
          'a cross-site request of a browser (Sec-Fetch-Site) is refused; call with fetch or EventSource from a page whose origin is in ALLOWED_ORIGINS',
      };
    }
    if (!isSameOrigin(headers, origin, host) && !allows(origin, host)) {
      return {
        kind: 'refuse',
        status: 403,
        message: `Origin ${JSON.stringify(origin)} is refused; add it to ALLOWED_ORIGINS to allow calls from its pages`,
      };
    }
    const corsHeaders = {
      'access-control-allow-origin': origin,
      'access-control-expose-headers': [...cors.exposedHeaders, ...ownExposedHeaders].join(', '),
      vary: 'Origin',
    };
    if (method !== 'OPTIONS' || headers['access-control-request-method'] === undefined)
      return { kind: 'pass', headers: corsHeaders };
    return {
      kind: 'preflight',
      status: 204,
      headers: {
        ...corsHeaders,
        'access-control-allow-methods': [...new Set([...cors.allowedMethods, 'PUT', 'PATCH', 'DELETE'])].join(', '),
        'access-control-allow-headers': allowedHeaders(headers['access-control-request-headers']),
        'access-control-max-age': preflightSeconds,
        // Chromium asks before a public page calls a private address. The origin was allowed
        // explicitly.
        ...(headers['access-control-request-private-network'] === 'true'
          ? { 'access-control-allow-private-network': 'true' }
          : {}),
      },
    };
  };
}

/** Maximum size of a preflight's list of headers; a longer one is ignored. */
const maxRequestedHeaders = 100;
const maxRequestedChars = 4096;
const headerName = /^[\w!#$%&'*+.^`|~-]+$/;

/**
 * Allows the service's own headers and those that the preflight names: libraries that monitor,
 * trace or sign calls add headers of their own.
 */
function allowedHeaders(requested = ''): string {
  const names = requested.split(',').map((name) => name.trim().toLowerCase());
  const isList = requested.length <= maxRequestedChars && names.length <= maxRequestedHeaders;
  const more = isList ? names.filter((name) => headerName.test(name)) : [];
  return [
    ...new Set([...[...cors.allowedHeaders, ...ownRequestHeaders].map((name) => name.toLowerCase()), ...more]),
  ].join(', ');
}

/**
 * Whether a page of the service itself calls, such as /docs: by Sec-Fetch-Site, else by comparing
 * Origin and Host. Such a call is not cross-origin, whatever ALLOWED_ORIGINS lists.
 */
function isSameOrigin(headers: IncomingHttpHeaders, origin: string, host: string | undefined): boolean {
  const site = headers['sec-fetch-site'];
  if (site !== undefined) return site === 'same-origin';
  if (!URL.canParse(origin)) return false;
  const { host: originHost, protocol } = new URL(origin);
  return (protocol === 'http:' || protocol === 'https:') && originHost === host?.toLowerCase();
}

/**
 * By Fetch Metadata, which browsers send to loopback and HTTPS. An image or a link on another site
 * has no Origin but could call a Connect GET, and learn from whether it loads. `same-site` is
 * another port of localhost, or another subdomain.
 */
function isCrossSite(headers: IncomingHttpHeaders): boolean {
  const site = headers['sec-fetch-site'];
  return site !== undefined && site !== 'same-origin' && site !== 'none';
}

/** Pages that users open by a link, and the document that they show. */
const pages = /^\/(?:(?:docs|console)(?:\/[^?]*)?|openapi\.json)?(?:\?|$)/;

/** Whether a link opens a page in a tab or window of its own, not in a frame. */
function isPageNavigation(method: string | undefined, url: string | undefined, headers: IncomingHttpHeaders): boolean {
  return (
    (method === 'GET' || method === 'HEAD') &&
    headers['sec-fetch-mode'] === 'navigate' &&
    headers['sec-fetch-dest'] === 'document' &&
    pages.test(url ?? '')
  );
}

function originRule(allowed: 'default' | readonly string[]): (origin: string, host: string | undefined) => boolean {
  if (allowed !== 'default') {
    const exact = new Set(allowed);
    return (origin) => exact.has('*') || exact.has(origin);
  }
  return (origin, host) => {
    if (!URL.canParse(origin)) return false;
    const { host: originHost, protocol } = new URL(origin);
    if (protocol !== 'http:' && protocol !== 'https:') return false;
    return originHost === host || isLoopbackHost(originHost);
  };
}

function hostOf(headers: IncomingHttpHeaders): string | undefined {
  const authority = headers[':authority'];
  return typeof authority === 'string' ? authority : headers.host;
}

/** `localhost`, its subdomains, 127.0.0.0/8 and [::1], with any port. */
function isLoopbackHost(host: string): boolean {
  const name = host.toLowerCase().replace(/:\d+$/, '');
  return name === 'localhost' || name.endsWith('.localhost') || name === '[::1]' || /^127(\.\d{1,3}){3}$/.test(name);
}
