import { writeSync } from 'node:fs';
import { constants, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2';
import type { Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import type { ConnectionBounds } from './connection-limits.ts';

/** A connection's window, shared by its streams. */
const sessionWindowBytes = 16 * 1024 * 1024;

/** Sets windows, pings, idle time and error handlers of one HTTP/2 connection. */
export function configureSession(
  session: ServerHttp2Session,
  { bounds, streams }: { readonly bounds: ConnectionBounds; readonly streams: StreamWatch },
): void {
  session.setLocalWindowSize(sessionWindowBytes);
  session.setTimeout(bounds.sessionIdleMs, () => session.close());
  session.on('error', () => session.destroy());
  session.on('stream', streams.add);
  let isPingAnswered = true;
  const pings = setInterval(() => {
    if (!isPingAnswered || session.destroyed) {
      session.destroy();
      return;
    }
    isPingAnswered = false;
    session.ping(() => {
      isPingAnswered = true;
    });
  }, bounds.pingMs);
  pings.unref();
  session.once('close', () => clearInterval(pings));
}

/** Closes stalled streams of all connections. */
export interface StreamWatch {
  readonly add: (stream: ServerHttp2Stream) => void;
  stop(): void;
}

/** Longest interval between two checks. */
const checkMs = 1000;

interface Watched {
  /** Whether the stream has a timeout of its own. */
  isTimed: boolean;
  /** Since when its answer is written completely, as of the last check. */
  answeredSince: number | undefined;
}

/**
 * Starts watching streams. One timer serves all, and a stream gets its own only when it is still
 * open at a check: setting one up and restarting it at each frame cost a small call 3 µs.
 */
export function watchStreams({ requestMs }: ConnectionBounds): StreamWatch {
  const open = new Map<ServerHttp2Stream, Watched>();
  function forget(this: ServerHttp2Stream): void {
    open.delete(this);
  }
  const check = () => {
    const now = performance.now();
    for (const [stream, watched] of open) {
      if (!watched.isTimed) {
        watched.isTimed = true;
        closeWhenStalled(stream, requestMs);
      }
      // Ends streams whose answer the client does not accept. Node's stream timeout misses them:
      // any frame of the connection, such as a ping, restarts it.
      if (!stream.writableEnded) continue;
      watched.answeredSince ??= now;
      if (now - watched.answeredSince > requestMs) stream.destroy();
    }
  };
  const timer = setInterval(check, Math.min(checkMs, Math.max(50, requestMs / 4))).unref();
  return {
    add(stream) {
      stream.on('error', ignore);
      stream.on('close', forget);
      open.set(stream, { isTimed: false, answeredSince: undefined });
    },
    stop: () => clearInterval(timer),
  };
}

function ignore(): void {}

/**
 * Closes a stream that stalls before its request is complete or with an answer unsent. An open
 * stream with nothing to send is healthy: a Watch of the health service stays silent until
 * something changes.
 */
function closeWhenStalled(stream: ServerHttp2Stream, requestMs: number): void {
  stream.setTimeout(requestMs, () => {
    const isRequestComplete = stream.state.state === constants.NGHTTP2_STREAM_STATE_HALF_CLOSED_REMOTE;
    if (!isRequestComplete || stream.writableLength > 0) stream.close();
    else closeWhenStalled(stream, requestMs);
  });
}

/** Maximum wait for a peer to answer a ping. */
const pingTimeoutMs = 1000;
const queuePollMs = 10;

/**
 * GOAWAY without an error and with the highest stream id: the connection will close, no stream is
 * refused yet (RFC 9113, 6.8).
 */
const notice = Buffer.from([0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);

/**
 * Closes a connection without losing requests in transit: a notice first, a round trip during which
 * new streams are served, then the GOAWAY that names the last stream. With an immediate GOAWAY,
 * clients without retries lost a few calls at each stop.
 */
export async function closeGracefully(session: ServerHttp2Session): Promise<void> {
  if (await sendNotice(session)) await roundTrip(session);
  session.close();
}

/**
 * Writes the notice directly to the cleartext socket, between two frames. Node has no call for it:
 * after `session.goaway` nghttp2 ignores new streams, whichever last stream id it names. TLS
 * connections get the final GOAWAY only. The notice would have to be encrypted by a write to the
 * TLSSocket, which completes asynchronously; Node aborts the process when HTTP/2, which writes to
 * the same handle natively and cannot be paused, starts a second write before that.
 */
async function sendNotice(session: ServerHttp2Session): Promise<boolean> {
  const end = performance.now() + pingTimeoutMs;
  while (!session.destroyed && performance.now() < end) {
    const { fd, writeQueueSize } = handleOf(session) ?? {};
    if (fd === undefined || fd < 0 || session.encrypted) return false;
    if (writeQueueSize === 0) {
      try {
        return writeSync(fd, notice) === notice.length;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') return false;
      }
    }
    await delay(queuePollMs);
  }
  return false;
}

async function roundTrip(session: ServerHttp2Session): Promise<void> {
  if (session.destroyed) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, pingTimeoutMs);
  session.once('close', resolve);
  session.ping(() => resolve());
  await promise;
  clearTimeout(timer);
}

/**
 * Whether the peer has reset a connection on which data is still queued. Node misses some resets
 * over TLS: after a failed write, the next one of the HTTP/2 session never completes, and the
 * session does not read while a write is outstanding. The kernel knows no peer then.
 */
export function isReset(socket: Socket): boolean {
  const handle = handleOf({ socket });
  if (handle === undefined || !(handle.writeQueueSize > 0)) return false;
  const status = handle.getpeername?.({});
  return status !== undefined && status < 0;
}

interface Handle {
  readonly fd: number;
  readonly writeQueueSize: number;
  /** Fills in the address; returns 0 or a negative error number. Unix domain sockets lack it. */
  getpeername?(address: object): number | undefined;
}

function handleOf({ socket }: Pick<ServerHttp2Session, 'socket'>): Handle | undefined {
  return (socket as unknown as { _handle: Handle | null | undefined })?._handle ?? undefined;
}
