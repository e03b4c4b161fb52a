import { constants, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2';
import type { ConnectionBounds } from './listen.ts';

/** Sessions carry many streams. */
const sessionWindowBytes = 16 * 1024 * 1024;

/** Windows, pings, idleness and errors of one HTTP/2 connection. */
export function tend(session: ServerHttp2Session, bounds: ConnectionBounds): void {
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
