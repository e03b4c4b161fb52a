import type { UniversalServerResponse } from '@connectrpc/connect/protocol';

/** Headers of an error, which may be another server's, that would speak of another body than ours. */
const framing = ['content-encoding', 'transfer-encoding', 'connection', 'keep-alive', 'trailer', 'upgrade'];
/** Statuses that HTTP gives no body. */
const bodiless = [204, 205, 304];
const utf8 = new TextEncoder();

/** An answer in JSON; HEAD gets all of it but the body. */
export function jsonAnswer(verb: string, status: number, body: string, headers: Headers): UniversalServerResponse {
  const header = new Headers(headers);
  for (const name of framing) header.delete(name);
  header.set('x-content-type-options', 'nosniff');
  if (bodiless.includes(status)) return { status, header };
  const bytes = utf8.encode(body);
  header.set('content-type', 'application/json');
  header.set('content-length', String(bytes.length));
  return { status, header, ...(verb === 'HEAD' ? {} : { body: once(bytes) }) };
}

async function* once(bytes: Uint8Array): AsyncIterable<Uint8Array> {
  yield bytes;
}

/** What `new Headers` takes. */
export type HeadersSource = ConstructorParameters<typeof Headers>[0];

/** Adds headers to headers: those of the same name are replaced, and one that comes several times, Set-Cookie, stays so. */
export function merge(into: Headers, from: HeadersSource, prefix = ''): void {
  const source = new Headers(from);
  for (const name of source.keys()) into.delete(prefix + name);
  for (const [name, value] of source) into.append(prefix + name, value);
}
