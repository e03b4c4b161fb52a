import type { UniversalServerResponse } from '@connectrpc/connect/protocol';

/** Headers that describe a body. An error may carry those of another server's answer. */
const framing = ['content-encoding', 'transfer-encoding', 'connection', 'keep-alive', 'trailer', 'upgrade'];
/** Statuses that have no body in HTTP. */
const bodiless = [204, 205, 304];

/** A body in one piece. `text` lets a server write it together with the headers. */
export class TextBody implements AsyncIterable<Uint8Array> {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    yield Buffer.from(this.text);
  }
}

/** Creates a JSON answer; HEAD gets everything except the body. Takes ownership of the headers. */
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

/** The argument of `new Headers`. */
export type HeadersSource = ConstructorParameters<typeof Headers>[0];

/**
 * Adds headers, replacing those of the same name. A header that occurs several times (Set-Cookie)
 * is kept.
 */
export function merge(into: Headers, from: HeadersSource | undefined, prefix = ''): void {
  if (from === undefined) return;
  const source = from instanceof Headers ? from : new Headers(from);
  for (const name of source.keys()) into.delete(prefix + name);
  for (const [name, value] of source) into.append(prefix + name, value);
}
