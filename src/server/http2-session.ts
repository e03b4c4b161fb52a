import { writeSync } from 'node:fs';
import { constants, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2';
import type { Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import type { ConnectionBounds } from './connection-limits.ts';

/** Sessions carry many streams. */
const sessionWindowBytes = 16 * 1024 * 1024;

/** Windows, pings, idleness and errors of one HTTP/2 connection. */
export function configureSession(session: ServerHttp2Session, bounds: ConnectionBounds): void {
  /** Since when all of a stream's answer is written, as far as it was looked. */
  const streams = new Map<ServerHttp2Stream, number | undefined>();
  session.setLocalWindowSize(sessionWindowBytes);
  session.setTimeout(bounds.sessionIdleMs, () => session.close());
  session.on('error', () => session.destroy());
  session.on('stream', (stream) => {
    stream.on('error', () => {});
    cutWhenStuck(stream, bounds.requestMs);
    streams.set(stream, undefined);
    stream.once('close', () => streams.delete(stream));
  });
  let answered = true;
  const pings = setInterval(() => {
    if (!answered || session.destroyed) {
      session.destroy();
      return;
    }
    // Answers that nobody takes. Node's time-out of a stream does not see them: any other frame of the connection, such as this ping, begins it anew.
    for (const [stream, since] of streams) {
      if (!stream.writableEnded) continue;
      if (since === undefined) streams.set(stream, performance.now());
      else if (performance.now() - since > bounds.requestMs) stream.destroy();
    }
    answered = false;
    session.ping(() => {
      answered = true;
    });
  }, bounds.pingMs);
  pings.unref();
  session.once('close', () => clearInterval(pings));
}

/**
 * A stream on which nothing moves is cut while its request is not here yet, or its answer is not taken. One that has all of its request and has written all that there is to say is
 * well: a Watch of the health service says nothing for as long as nothing changes.
 */
function cutWhenStuck(stream: ServerHttp2Stream, requestMs: number): void {
  stream.setTimeout(requestMs, () => {
    const isAsked = stream.state.state === constants.NGHTTP2_STREAM_STATE_HALF_CLOSED_REMOTE;
    if (!isAsked || stream.writableLength > 0) stream.close();
    else cutWhenStuck(stream, requestMs);
  });
}

/** A peer that does not answer a ping within this is not waited for. */
const noticeMs = 1000;
const queueLookMs = 10;

/** GOAWAY without an error and with the highest stream id: the connection will close, no stream is refused yet (RFC 9113, 6.8). */
const notice = Buffer.from([0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);

/**
 * Closes a connection without losing a request that is on its way: first a notice, and after a round trip, in which new streams are still served, the
 * GOAWAY that names the last one. A client that does not retry lost a few calls at each stop by a GOAWAY at once.
 */
export async function closeGracefully(session: ServerHttp2Session): Promise<void> {
  if (await sendNotice(session)) await roundTrip(session);
  session.close();
}

/**
 * Writes the notice directly to the cleartext socket, between two frames. Node has no call for it:
 * after `session.goaway` nghttp2 ignores new streams, whichever last stream id it names.
 * TLS connections get the final GOAWAY only. The notice would have to be encrypted by a write to the
 * TLSSocket, which completes asynchronously; Node aborts the process when HTTP/2, which writes to the
 * same handle natively and cannot be paused, starts a second write before that.
 */
async function sendNotice(session: ServerHttp2Session): Promise<boolean> {
  const end = performance.now() + noticeMs;
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
    await delay(queueLookMs);
  }
  return false;
}

async function roundTrip(session: ServerHttp2Session): Promise<void> {
  if (session.destroyed) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, noticeMs);
  session.once('close', resolve);
  session.ping(() => resolve());
  await promise;
  clearTimeout(timer);
}

/**
 * Whether the peer has reset a connection on which data is still queued.
 * Node misses some resets over TLS: after a failed write, the next one of the HTTP/2 session never
 * completes, and the session does not read while a write is outstanding. The kernel knows no peer then.
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
