import type { Interceptor } from '@connectrpc/connect';
import { invalidField } from '../../messages/service-error.ts';
import { didYouMean } from '../../transcode/index.ts';
import { requestContextOf } from '../request-context.ts';

/** The query parameters of a Connect GET, which carry the request. */
const connectGet = ['connect', 'encoding', 'message', 'base64', 'compression'] as const;

/**
 * Refuses unknown query parameters of RPC paths. The protocols ignore them, so
 * `?validate_only=true` beside a request without it would send. JSON routes check their queries
 * themselves.
 */
export const queryInterceptor: Interceptor = (next) => (request) => {
  const { url, requestMethod, contextValues } = request;
  const start = url.indexOf('?');
  if (start !== -1 && requestContextOf(contextValues).protocol !== 'json') {
    const known = requestMethod === 'GET' ? connectGet : [];
    assertKnown(queryOf(url.slice(start + 1)), known, 'the options of an RPC are fields of its request');
  }
  return next(request);
};

/**
 * Parses a query. Percent-encodings must be UTF-8: URLSearchParams replaces invalid ones by U+FFFD.
 */
export function queryOf(search: string): URLSearchParams {
  const query = new URLSearchParams();
  for (const part of search.split('&')) {
    if (part === '') continue;
    const equals = part.indexOf('=');
    const name = equals === -1 ? part : part.slice(0, equals);
    query.append(decode(name), equals === -1 ? '' : decode(part.slice(equals + 1)));
  }
  return query;
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    throw invalidField('query', `has a percent-encoding that is not UTF-8: ${JSON.stringify(text.slice(0, 64))}`);
  }
}

/** Asserts that every parameter is known and given once. */
export function assertKnown(query: URLSearchParams, known: readonly string[], wayOut?: string): void {
  for (const name of new Set(query.keys())) {
    if (name === '') throw invalidField('query', 'has a parameter without a name');
    const field = name.slice(0, 64);
    if (!known.includes(name))
      throw invalidField(
        field,
        `is not a parameter of this path${didYouMean(field, known) || (wayOut === undefined ? '' : `; ${wayOut}`)}`,
      );
    if (query.getAll(name).length > 1) throw invalidField(field, 'must be given only once');
  }
}
