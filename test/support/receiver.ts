import assert from 'node:assert/strict';
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { patienceMs } from './watch.ts';

/** One received POST. */
export interface Received {
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: the bodies are read field by field
  readonly body: any;
  readonly at: number;
}

/** Answers a POST; one that it does not end hangs. */
export type Answer = (response: ServerResponse, received: Received) => void;

/** A webhook receiver on loopback. */
export interface Receiver {
  readonly url: string;
  /** All received POSTs, in order of arrival. */
  readonly received: Received[];
  answer: Answer;
  /** Waits until the condition holds, which is checked after each POST. */
  until(what: string, holds: () => boolean): Promise<void>;
  close(): Promise<void>;
}

export const ok: Answer = (response) => response.writeHead(200).end();
export const status =
  (code: number, headers: Record<string, string> = {}): Answer =>
  (response) =>
    response.writeHead(code, headers).end();

export async function startReceiver(): Promise<Receiver> {
  const received: Received[] = [];
  const waiting = new Set<() => void>();
  const server = createServer(async (request, response) => {
    let text = '';
    for await (const chunk of request.setEncoding('utf8')) text += chunk;
    const { url = '', headers } = request;
    const one = { path: url, headers, text, body: JSON.parse(text), at: performance.now() };
    received.push(one);
    receiver.answer(response, one);
    for (const check of waiting) check();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const receiver: Receiver = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    received,
    answer: ok,
    async until(what, holds) {
      if (holds()) return;
      const { promise, resolve } = Promise.withResolvers<void>();
      const check = () => holds() && resolve();
      waiting.add(check);
      const timer = setTimeout(resolve, patienceMs);
      await promise;
      clearTimeout(timer);
      waiting.delete(check);
      assert.ok(holds(), `${what}: not within ${patienceMs} ms, of ${received.length} POSTs`);
    },
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return receiver;
}

/** The messages of a POST in either format; none of a POST of changes. */
export function messagesOf({ body }: Received): { channel_id: string; message_seq: number; payload: string }[] {
  return Array.isArray(body) ? body : (body.data.messages ?? []);
}

/** The changes of a POST. */
export function changesOf({
  body,
}: Received): { change_no: number; kind: number; message: ReturnType<typeof messagesOf>[number] }[] {
  return body.data?.changes ?? [];
}
