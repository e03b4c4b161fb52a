import { createServer as createHttpServer, type Server, type ServerResponse } from 'node:http';
import {
  createServer as createHttp2Server,
  createSecureServer,
  type Http2SecureServer,
  type Http2Server,
  type ServerHttp2Session,
} from 'node:http2';
import { type AddressInfo, Server as NetServer, type Socket } from 'node:net';
import type { SecureContextOptions } from 'node:tls';
import type { connectNodeAdapter } from '@connectrpc/connect-node';
import { type ConnectionBounds, connectionBounds } from './connection-limits.ts';
import { discardRest } from './early-answer.ts';
import { closeGracefully, configureSession, isReset } from './http2-session.ts';
import { closeSlowExchanges } from './slow-exchanges.ts';

type Handler = ReturnType<typeof connectNodeAdapter>;

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

interface Tls {
  readonly key: string;
  readonly cert: string;
  readonly clientCa?: string;
}

export interface ListenOptions {
  readonly host: string;
  /** 0 = any free port. */
  readonly port: number;
  /** With `clientCa`, clients are asked for a certificate of these authorities; it is optional. */
  readonly tls?: Tls;
  readonly handler: Handler;
  readonly bounds?: ConnectionBounds;
}

/** With a stream window of 64 KiB, each larger batch would wait for a round trip. */
const streamWindowBytes = 1024 * 1024;
const drainLookMs = 25;
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
  const responses = new Set<ServerResponse>();
  const sessions = new Set<ServerHttp2Session>();
  const sockets = new Set<Socket>();
  const spent = new WeakSet<Socket>();
  let draining = false;

  const handler: Handler = (request, response) => {
    if (request.httpVersionMajor === 1) {
      const plain = response as unknown as ServerResponse;
      const { socket } = request;
      if (draining) plain.shouldKeepAlive = false;
      responses.add(plain);
      plain.once('close', () => {
        responses.delete(plain);
        if (request.complete) return;
        // Answered before the body was complete: Node does not count the connection as idle.
        spent.add(socket);
        discardRest(request, response);
      });
    }
    options.handler(request, response);
  };

  const server = options.tls === undefined ? cleartext(handler, bounds) : secure(handler, bounds, options.tls);
  const carriers: (Server | Http2Server | Http2SecureServer)[] = [
    server.port,
    ...(server.h2 === server.port ? [] : [server.h2]),
  ];
  server.port.maxConnections = bounds.connections;
  server.port.on(options.tls === undefined ? 'connection' : 'secureConnection', (socket: Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    // A reset by the peer is not an error of the service; without a listener it would end the
    // process.
    socket.on('error', () => socket.destroy());
    // A peer that ends its side has left. Node would keep the connection until all is written.
    socket.once('end', () => {
      for (const { req, writableEnded } of responses) if (req.socket === socket && writableEnded) return;
      socket.destroy();
    });
  });
  server.h2.on('session', (session: ServerHttp2Session) => {
    sessions.add(session);
    session.once('close', () => sessions.delete(session));
    if (draining) session.close();
    else configureSession(session, bounds);
  });
  for (const carrier of carriers) carrier.on('error', () => {});

  await open(server.port, options);
  const resetCheck = setInterval(() => {
    for (const socket of sockets) if (isReset(socket)) socket.destroy();
  }, resetCheckMs);
  resetCheck.unref();
  const stopClosing = closeSlowExchanges(responses, bounds);
  const { port } = server.port.address() as AddressInfo;
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
    const closed = Promise.withResolvers<void>();
    // http.Server.close would close idle connections immediately.
    NetServer.prototype.close.call(server.port, () => closed.resolve());
    for (const response of responses) response.shouldKeepAlive = false;
    for (const session of sessions) void closeGracefully(session);
    server.cutSilent();
    let lingering = true;
    const linger = setTimeout(() => {
      lingering = false;
      server.port.close();
      closeIdle();
    }, lingerMs);
    const closeIdle = () => {
      if (!lingering) server.closeIdle();
      for (const socket of sockets) if (spent.has(socket)) socket.destroy();
    };
    const idle = setInterval(closeIdle, drainLookMs);
    closeIdle();
    let forced = 0;
    const timer = setTimeout(() => {
      forced = sockets.size;
      for (const session of sessions) session.destroy();
      for (const socket of sockets) socket.destroy();
    }, graceMs);
    await closed.promise;
    server.port.close();
    clearInterval(resetCheck);
    stopClosing();
    clearInterval(idle);
    clearTimeout(linger);
    clearTimeout(timer);
    return { forced };
  }
}

interface Carrier {
  /** The server that listens. */
  readonly port: Server | Http2SecureServer;
  /** The server that gets the HTTP/2 connections. */
  readonly h2: Http2Server | Http2SecureServer;
  /** Closes HTTP/1.1 connections that wait for a next request. */
  closeIdle(): void;
  /** Closes connections whose protocol is not known yet. */
  cutSilent(): void;
  replaceTls(tls: Tls): void;
}

function h1Options(bounds: ConnectionBounds) {
  return {
    headersTimeout: bounds.headersMs,
    requestTimeout: 0,
    keepAliveTimeout: bounds.keepAliveMs,
    maxHeaderSize: bounds.headerBytes,
    // How often Node checks for connections over their time.
    connectionsCheckingInterval: Math.min(1000, Math.max(50, bounds.headersMs / 4)),
  };
}

function h2Options(bounds: ConnectionBounds) {
  return {
    settings: {
      initialWindowSize: streamWindowBytes,
      maxConcurrentStreams: bounds.streams,
      maxHeaderListSize: bounds.headerBytes,
    },
    maxHeaderListPairs: 128,
  };
}

/**
 * The HTTP/1.1 server owns the port: only a listening server keeps the list by which Node enforces
 * its timeouts. Its own connection listener is replaced by one that reads the first bytes and hands
 * the connection to the HTTP/1.1 or the HTTP/2 server.
 */
function cleartext(handler: Handler, bounds: ConnectionBounds): Carrier {
  const h1 = createHttpServer(h1Options(bounds), handler);
  const h2 = createHttp2Server(h2Options(bounds), handler);
  // Otherwise Node asks for the body before the headers are checked.
  for (const server of [h1, h2]) server.on('checkContinue', handler);
  const toH1 = h1.listeners('connection') as ((this: Server, socket: Socket) => void)[];
  h1.removeAllListeners('connection');
  const silent = new Set<Socket>();
  h1.on('connection', (socket: Socket) => {
    silent.add(socket);
    let head: Buffer = Buffer.alloc(0);
    const timer = setTimeout(() => socket.destroy(), bounds.headersMs);
    const forget = () => {
      clearTimeout(timer);
      silent.delete(socket);
      socket.off('readable', look);
      socket.off('close', forget);
    };
    const look = () => {
      const bytes: Buffer | null = socket.read();
      if (bytes === null) return;
      head = Buffer.concat([head, bytes]);
      const preface = isPreface(head);
      if (preface === undefined) return;
      forget();
      // Only now: unshift emits `readable` again.
      socket.unshift(head);
      if (preface) h2.emit('connection', socket);
      else for (const listener of toH1) listener.call(h1, socket);
    };
    socket.on('readable', look);
    socket.on('close', forget);
  });
  return {
    port: h1,
    h2,
    closeIdle: () => h1.closeIdleConnections(),
    cutSilent: () => {
      for (const socket of silent) socket.destroy();
    },
    replaceTls() {
      throw new Error('a cleartext port has no certificate');
    },
  };
}

const preface = Buffer.from('PRI ');

/**
 * Whether a connection starts with the HTTP/2 preface; undefined with too few bytes. No HTTP/1.1
 * method starts with `PRI `.
 */
function isPreface(bytes: Buffer): boolean | undefined {
  const length = Math.min(bytes.length, preface.length);
  if (bytes.compare(preface, 0, length, 0, length) !== 0) return false;
  return bytes.length >= preface.length ? true : undefined;
}

/**
 * The options of a secure context, at the start and at each reload: Node forgets what is not
 * repeated.
 */
function secureContext({ key, cert, clientCa }: Tls): SecureContextOptions {
  return { key, cert, ...(clientCa === undefined ? {} : { ca: clientCa }), minVersion: 'TLSv1.2' };
}

function secure(handler: Handler, bounds: ConnectionBounds, tls: Tls): Carrier {
  const server = createSecureServer(
    {
      ...h2Options(bounds),
      ...h1Options(bounds),
      ...secureContext(tls),
      ...(tls.clientCa === undefined ? {} : { requestCert: true, rejectUnauthorized: false }),
      allowHTTP1: true,
      handshakeTimeout: bounds.headersMs,
    },
    handler,
  );
  server.on('checkContinue', handler);
  // Not accepted as options of a secure HTTP/2 server, but its HTTP/1.1 side reads them.
  Object.assign(server, {
    headersTimeout: bounds.headersMs,
    requestTimeout: 0,
    keepAliveTimeout: bounds.keepAliveMs,
  });
  const idle = server as Http2SecureServer & { closeIdleConnections?: () => void };
  return {
    port: server,
    h2: server,
    closeIdle: () => idle.closeIdleConnections?.(),
    cutSilent: () => {},
    replaceTls: (next) => server.setSecureContext(secureContext(next)),
  };
}

/** Opens the port for a moment, to find a port in use before a database is created or migrated. */
export async function tryPort({ host, port }: { readonly host: string; readonly port: number }): Promise<void> {
  if (port === 0) return;
  const server = createHttpServer();
  await open(server, { host, port });
  await new Promise((resolve) => server.close(resolve));
}

async function open(
  server: Server | Http2SecureServer,
  { host, port }: Pick<ListenOptions, 'host' | 'port'>,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const failed = (error: NodeJS.ErrnoException) => reject(new ListenError(inWords(error, host, port)));
  server.once('error', failed);
  server.listen(port, host, () => {
    server.off('error', failed);
    resolve();
  });
  await promise;
}

function inWords(error: NodeJS.ErrnoException, host: string, port: number): string {
  const where = `${host}:${port}`;
  if (error.code === 'EADDRINUSE') return `${where} is in use: stop what listens there, or set PORT to another port`;
  if (error.code === 'EACCES') return `${where} may not be opened by this user: set PORT to 1024 or above`;
  if (error.code === 'EADDRNOTAVAIL' || error.code === 'ENOTFOUND')
    return `HOST=${host} is not an address of this machine: 127.0.0.1 always is`;
  return `${where} cannot be opened: ${error.message}`;
}
