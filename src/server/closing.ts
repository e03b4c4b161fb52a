// HTTP/1.1 connections that close with an answer (RFC 9112, section 9.6).
import type { Socket } from 'node:net';
import type { Request, Response } from '../rpc/request-context.ts';

const closing = new WeakSet<Socket>();

/** Makes an answer the last one of its connection; its head must not be sent yet. */
export function closeAfter({ socket }: Pick<Request, 'socket'>, response: Response): void {
  if ('stream' in response) return;
  response.shouldKeepAlive = false;
  closing.add(socket);
}

/**
 * Whether an answer of this connection says `Connection: close`. Requests behind it must not be
 * processed: their callers send them again on another connection.
 */
export function isClosing(socket: Socket): boolean {
  return closing.has(socket);
}
