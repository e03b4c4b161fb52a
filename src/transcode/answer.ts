import type { UniversalServerResponse } from '@connectrpc/connect/protocol';

/** Headers of an error, which may be another server's, that would speak of another body than ours. */
const framing = ['content-encoding', 'transfer-encoding', 'connection', 'keep-alive', 'trailer', 'upgrade'];
/** Statuses that HTTP gives no body. */
const bodiless = [204, 205, 304];

/** A body in one piece. Its text is for servers that write it in one call together with the headers. */
export class TextBody implements AsyncIterable<Uint8Array> {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    yield Buffer.from(this.text);
  }
}

/** A JSON answer; HEAD gets all of it but the body. Takes the headers over. */
export function jsonAnswer(verb: string, status: number, body: string, header: Headers): UniversalServerResponse {
  header.set('x-content-type-options', 'nosniff');
  if (bodiless.includes(status)) return { status, header };
  header.set('content-type', 'application/json');
  header.set('content-length', String(Buffer.byteLength(body)));
  return { status, header, ...(verb === 'HEAD' ? {} : { body: new TextBody(body) }) };
}

/** Removes the headers that describe another body. */
export function dropFraming(headers: Headers): void {
  for (const name of framing) headers.delete(name);
}

/** What `new Headers` takes. */
export type HeadersSource = ConstructorParameters<typeof Headers>[0];

/** Adds headers to headers: those of the same name are replaced, and one that comes several times, Set-Cookie, stays so. */
export function merge(into: Headers, from: HeadersSource | undefined, prefix = ''): void {
  if (from === undefined) return;
  const source = from instanceof Headers ? from : new Headers(from);
  for (const name of source.keys()) into.delete(prefix + name);
  for (const [name, value] of source) into.append(prefix + name, value);
}
