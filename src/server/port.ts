// The port: listens, tracks connections, and drains them on stop.
//
// `listen` opens one port for HTTP/1.1 and HTTP/2 (http-servers.ts) and hands each request to
// dispatch.ts. Limits of a connection are in connection-limits.ts, their enforcement in
// slow-exchanges.ts (HTTP/1.1) and http2-session.ts (HTTP/2). States of the listener:
//
//   open ── close(graceMs) ──> draining ── all connections closed, or graceMs ──> closed
//
// Draining accepts no connection, serves requests in transit (HTTP/1.1: `lingerMs`; HTTP/2: until
// the client has answered a GOAWAY notice), and lets calls in flight finish.

import type { Server, ServerResponse } from 'node:http';
import { constants, type Http2SecureServer, type Http2Server, type ServerHttp2Session } from 'node:http2';
import type { Socket } from 'node:net';
import type { Handler, Request } from '../rpc/request-context.ts';
import { type Address, assertFree, openAcceptors } from './acceptors.ts';
import { closeAfter, isClosing } from './closing.ts';
import { type ConnectionBounds, connectionBounds } from './connection-limits.ts';
import { discardRest } from './early-answer.ts';
import { createCleartextServers, createTlsServers, type HttpOptions, type Tls } from './http-servers.ts';
import { closeGracefully, configureSession, isReset, watchStreams } from './http2-session.ts';
import { OpenList } from './open-list.ts';
import { closeSlowExchanges } from './slow-exchanges.ts';
import type { TakesStream } from './stream-exchange.ts';

/** The port cannot be opened; the message is one line for the operator. */
export class ListenError extends Error {}

/** An open port. */
export interface Listener {
  readonly url: string;
  readonly port: number;
  /**
   * Uses this certificate for new connections; open ones keep theirs. Throws OpenSSL's error for an
   * unusable pair.
   */
  replaceTls(tls: Tls): void;
  /**
   * Accepts no more calls, lets those in flight finish, and closes the rest after `graceMs`.
   * Returns the number of connections closed by force.
   */
  close(graceMs: number): Promise<{ forced: number }>;
}

export interface ListenOptions {
  readonly host: string;
  /** 0 = any free port. */
  readonly port: number;
  /** With `clientCa`, clients are asked for a certificate of these authorities; it is optional. */
  readonly tls?: Tls;
  readonly handler: Handler;
  /** Called with what the handler threw; its request has ended without an answer. */
  readonly onDefect?: (error: unknown, request: Request) => void;
  /** Which calls the handler serves on their HTTP/2 streams; unset: none. */
  readonly takesStream?: TakesStream;
  readonly bounds?: ConnectionBounds;
}

const drainPollMs = 25;
/** Interval between two checks for connections whose reset Node has missed. */
const resetCheckMs = 1000;
/**
 * Time during which a kept-alive HTTP/1.1 connection may send one more request, whose answer closes
 * it: a request may be in transit. Without it each restart cost busy clients a "socket hang up".
 * HTTP/2 has GOAWAY for this.
 */
const lingerMs = 250;

/**
 * Opens one port for HTTP/1.1 and HTTP/2: by the first bytes on cleartext (prior knowledge), by
 * ALPN on TLS.
 */
export async function listen(options: ListenOptions): Promise<Listener> {
  const bounds = options.bounds ?? connectionBounds;
  const responses = new OpenList<ServerResponse>();
  const sessions = new Set<ServerHttp2Session>();
  const sockets = new Set<Socket>();
  const answeredEarly = new WeakSet<Socket>();
  let draining = false;

  const handler: Handler = (request, response) => {
    if (request.httpVersionMajor === 1) {
      const plain = response as unknown as ServerResponse;
      const { socket } = request;
      if (isClosing(socket)) {
        request.on('error', () => {}).resume();
        return;
      }
      if (draining) closeAfter(request, response);
      const node = responses.add(plain);
      plain.once('close', () => {
        responses.remove(node);
        if (request.complete) return;
        // Answered before the body was complete: Node does not count the connection as idle.
        answeredEarly.add(socket);
        discardRest(request, response);
      });
    }
    // One defect must not end the process, and with it all other calls.
    const fail = (error: unknown) => {
      options.onDefect?.(error, request);
      if (!('stream' in response)) response.destroy();
      else if (!response.stream.closed) response.stream.close(constants.NGHTTP2_INTERNAL_ERROR);
    };
    try {
      const handled = options.handler(request, response);
      if (handled instanceof Promise) handled.catch(fail);
    } catch (error) {
      fail(error);
    }
  };

  const http: HttpOptions = { handler, takesStream: options.takesStream ?? (() => false), bounds };
  const server = options.tls === undefined ? createCleartextServers(http) : createTlsServers(http, options.tls);
  const allServers: (Server | Http2Server | Http2SecureServer)[] = [
    server.port,
    ...(server.http2 === server.port ? [] : [server.http2]),
  ];
  // Not by `maxConnections`, which counts those that the server's own socket has accepted.
  let accepted = 0;
  server.port.on('connection', (socket: Socket) => {
    if (accepted >= bounds.connections) {
      socket.destroy();
      return;
    }
    accepted++;
    socket.once('close', () => accepted--);
  });
  server.port.on(options.tls === undefined ? 'connection' : 'secureConnection', (socket: Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    // A reset by the peer is not an error of the service; without a listener it would end the
    // process.
    socket.on('error', () => socket.destroy());
    // A peer that ends its side has left. Node would keep the connection until all is written.
    socket.once('end', () => {
      for (const { req, writableEnded } of responses.values()) if (req.socket === socket && writableEnded) return;
      socket.destroy();
    });
  });
  const streams = watchStreams(bounds);
  server.http2.on('session', (session: ServerHttp2Session) => {
    sessions.add(session);
    session.once('close', () => sessions.delete(session));
    if (draining) session.close();
    else configureSession(session, { bounds, streams });
  });
  for (const carrier of allServers) carrier.on('error', () => {});

  const acceptors = await atAddress(options, () => openAcceptors(server.port, options));
  const resetCheck = setInterval(() => {
    for (const socket of sockets) if (isReset(socket)) socket.destroy();
  }, resetCheckMs);
  resetCheck.unref();
  const stopClosing = closeSlowExchanges(responses, bounds);
  const { port } = acceptors;
  const host = options.host.includes(':') ? `[${options.host}]` : options.host;
  let closing: Promise<{ forced: number }> | undefined;
  return {
    url: `${options.tls === undefined ? 'http' : 'https'}://${host}:${port}`,
    port,
    replaceTls: (tls) => server.replaceTls(tls),
    close(graceMs) {
      closing ??= drain(graceMs);
      return closing;
    },
  };

  async function drain(graceMs: number): Promise<{ forced: number }> {
    draining = true;
    const closed = acceptors.close();
    // Of pipelined requests the last one: all are being processed.
    const last = new Map(responses.values().map((response) => [response.req.socket, response]));
    for (const [, response] of last) if (!response.headersSent) closeAfter(response.req, response);
    for (const session of sessions) void closeGracefully(session);
    server.closeUnidentified();
    let lingering = true;
    const linger = setTimeout(() => {
      lingering = false;
      server.port.close();
      closeIdle();
    }, lingerMs);
    const closeIdle = () => {
      if (!lingering) server.closeIdle();
      for (const socket of sockets) if (answeredEarly.has(socket)) socket.destroy();
    };
    const idle = setInterval(closeIdle, drainPollMs);
    closeIdle();
    let forced = 0;
    const timer = setTimeout(() => {
      forced = sockets.size;
      for (const session of sessions) session.destroy();
      for (const socket of sockets) socket.destroy();
    }, graceMs);
    await closed;
    server.port.close();
    clearInterval(resetCheck);
    stopClosing();
    streams.stop();
    clearInterval(idle);
    clearTimeout(linger);
    clearTimeout(timer);
    return { forced };
  }
}

/** Opens the port for a moment, to find a port in use before a database is created or migrated. */
export async function tryPort({ host, port }: Address): Promise<void> {
  await atAddress({ host, port }, () => assertFree({ host, port }));
}

/** Listens; an error of it is a line for the operator. */
async function atAddress<T>({ host, port }: Address, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw new ListenError(listenErrorText(error as NodeJS.ErrnoException, host, port));
  }
}

function listenErrorText(error: NodeJS.ErrnoException, host: string, port: number): string {
  const where = `${host}:${port}`;
  if (error.code === 'EADDRINUSE') return `${where} is in use: stop what listens there, or set PORT to another port`;
  if (error.code === 'EACCES') return `${where} may not be opened by this user: set PORT to 1024 or above`;
  if (error.code === 'EADDRNOTAVAIL' || error.code === 'ENOTFOUND')
    return `HOST=${host} is not an address of this machine: 127.0.0.1 always is`;
  return `${where} cannot be opened: ${error.message}`;
}
