import { connect, type Socket } from 'node:net';

/**
 * A light HTTP/1.1 client for closed loops: keep-alive connections, each opened when the open ones
 * are all in use; requests are encoded in advance, and answers are only counted by their senders.
 */
export interface HttpClient {
  /** Encodes a request; a body is posted. */
  requestOf(path: string, body?: object): Buffer;
  /** Resolves with the body of the answer; rejects with an HttpError unless its status is 200. */
  ask(request: Buffer): Promise<string>;
  close(): void;
}

/** An answer whose status is not 200. */
export class HttpError extends Error {
  readonly status: number;

  constructor(status: number, body: string) {
    super(`${status} … ${body.slice(0, 300)}`);
    this.status = status;
  }
}

export function createHttpClient(url: string): HttpClient {
  const { hostname, port, host } = new URL(url);
  const sockets: Socket[] = [];
  const free: Socket[] = [];
  const open = () => {
    const socket = connect(Number(port), hostname).setNoDelay(true);
    sockets.push(socket);
    return socket;
  };
  return {
    requestOf(path, body) {
      if (body === undefined) return Buffer.from(`GET ${path} HTTP/1.1\r\nhost: ${host}\r\n\r\n`);
      const bytes = Buffer.from(JSON.stringify(body));
      const head = `POST ${path} HTTP/1.1\r\nhost: ${host}\r\ncontent-type: application/json\r\ncontent-length: ${bytes.length}\r\n\r\n`;
      return Buffer.concat([Buffer.from(head), bytes]);
    },
    async ask(request) {
      const socket = free.pop() ?? open();
      socket.write(request);
      const { status, body } = await answerOf(socket);
      free.push(socket);
      if (status !== 200) throw new HttpError(status, body);
      return body;
    },
    close() {
      for (const socket of sockets) socket.destroy();
    },
  };
}

/** Concurrent requests of a dry run or a warm-up. */
export const warmUpInFlight = 16;

/** Calls `send` for all of them. */
export async function inParallel<T>(
  all: readonly T[],
  send: (one: T, index: number) => Promise<unknown>,
): Promise<void> {
  let next = 0;
  const worker = async () => {
    for (let index = next++; index < all.length; index = next++) await send(all[index] as T, index);
  };
  await Promise.all(Array.from({ length: warmUpInFlight }, worker));
}

/** Reads one answer, with a Content-Length or in chunks. */
async function answerOf(socket: Socket): Promise<{ status: number; body: string }> {
  return await new Promise((resolve, reject) => {
    let text = '';
    const done = (end: () => void) => {
      socket.off('data', onData).off('error', onEnd).off('close', onEnd);
      end();
    };
    const onEnd = (error?: unknown) =>
      done(() => reject(error instanceof Error ? error : new Error('the connection ended')));
    const onData = (chunk: Buffer) => {
      text += chunk.toString('latin1');
      const head = text.indexOf('\r\n\r\n');
      if (head === -1) return;
      const length = /content-length: (\d+)/i.exec(text)?.[1];
      if (length === undefined ? !text.endsWith('\r\n0\r\n\r\n') : text.length < head + 4 + Number(length)) return;
      done(() => resolve({ status: Number(text.slice('HTTP/1.1 '.length).slice(0, 3)), body: text.slice(head + 4) }));
    };
    socket.on('data', onData).on('error', onEnd).on('close', onEnd);
  });
}
