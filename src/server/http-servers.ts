// The HTTP servers behind the port: HTTP/1.1 and HTTP/2, on cleartext or TLS.

import { createServer as createHttpServer, type Server } from 'node:http';
import {
  createServer as createHttp2Server,
  createSecureServer,
  type Http2SecureServer,
  type Http2Server,
} from 'node:http2';
import type { Socket } from 'node:net';
import type { SecureContextOptions } from 'node:tls';
import type { Handler } from '../rpc/request-context.ts';
import type { ConnectionBounds } from './connection-limits.ts';
import { serveStreams, type TakesStream } from './stream-exchange.ts';

/** A certificate, its key, and the authorities of client certificates, as PEM. */
export interface Tls {
  readonly key: string;
  readonly cert: string;
  readonly clientCa?: string;
}

/** With a stream window of 64 KiB, each larger batch would wait for a round trip. */
const streamWindowBytes = 1024 * 1024;

/** Servers that share one port. */
export interface HttpServers {
  /** The server that listens. */
  readonly port: Server | Http2SecureServer;
  /** The server that gets the HTTP/2 connections. */
  readonly http2: Http2Server | Http2SecureServer;
  /** Closes HTTP/1.1 connections that wait for a next request. */
  closeIdle(): void;
  /** Closes connections whose protocol is not known yet. */
  closeUnidentified(): void;
  replaceTls(tls: Tls): void;
}

export interface HttpOptions {
  readonly handler: Handler;
  /** Which calls the handler serves on their HTTP/2 streams. */
  readonly takesStream: TakesStream;
  readonly bounds: ConnectionBounds;
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
export function createCleartextServers({ handler, takesStream, bounds }: HttpOptions): HttpServers {
  const h1 = createHttpServer(h1Options(bounds), handler);
  const http2 = createHttp2Server(h2Options(bounds), handler);
  // Otherwise Node asks for the body before the headers are checked.
  for (const server of [h1, http2]) server.on('checkContinue', handler);
  serveStreams(http2, takesStream, handler);
  const toH1 = h1.listeners('connection') as ((this: Server, socket: Socket) => void)[];
  h1.removeAllListeners('connection');
  const unidentified = new Set<Socket>();
  h1.on('connection', (socket: Socket) => {
    unidentified.add(socket);
    let head: Buffer = Buffer.alloc(0);
    const timer = setTimeout(() => socket.destroy(), bounds.headersMs);
    const stopReading = () => {
      clearTimeout(timer);
      unidentified.delete(socket);
      socket.off('readable', readPreface);
      socket.off('close', stopReading);
    };
    const readPreface = () => {
      const bytes: Buffer | null = socket.read();
      if (bytes === null) return;
      head = Buffer.concat([head, bytes]);
      const preface = isPreface(head);
      if (preface === undefined) return;
      stopReading();
      // Only now: unshift emits `readable` again.
      socket.unshift(head);
      if (preface) http2.emit('connection', socket);
      else for (const listener of toH1) listener.call(h1, socket);
    };
    socket.on('readable', readPreface);
    socket.on('close', stopReading);
  });
  return {
    port: h1,
    http2,
    closeIdle: () => h1.closeIdleConnections(),
    closeUnidentified: () => {
      for (const socket of unidentified) socket.destroy();
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

export function createTlsServers({ handler, takesStream, bounds }: HttpOptions, tls: Tls): HttpServers {
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
  serveStreams(server, takesStream, handler);
  // Not accepted as options of a secure HTTP/2 server, but its HTTP/1.1 side reads them.
  Object.assign(server, {
    headersTimeout: bounds.headersMs,
    requestTimeout: 0,
    keepAliveTimeout: bounds.keepAliveMs,
  });
  const idle = server as Http2SecureServer & { closeIdleConnections?: () => void };
  return {
    port: server,
    http2: server,
    closeIdle: () => idle.closeIdleConnections?.(),
    closeUnidentified: () => {},
    replaceTls: (next) => server.setSecureContext(secureContext(next)),
  };
}
