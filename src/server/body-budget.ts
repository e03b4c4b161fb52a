import { constants } from 'node:http2';
import type { Request, Response } from '../rpc/request-context.ts';

/** Bodies that come are counted together, so that no number of them fills the memory. */
export type BodyBudget = (request: Request, response: Response) => void;

export interface BodyBudgetOptions {
  /** Bytes of all bodies of calls that are here. */
  readonly mostBytes: number;
  /** Milliseconds that a body may take before it counts as slow. */
  readonly graceMs: number;
  /** Whether a request's body is taken as it comes, and not held as a whole. */
  readonly isStream: (request: Request) => boolean;
  /** Who sends a request: any object or string that is the same for all of its requests. */
  readonly peerOf: (request: Request) => unknown;
  /** Told of each request that had to make room. */
  readonly onCut: (request: Request) => void;
}

interface Body {
  bytes: number;
  /** When its first byte came. */
  readonly since: number;
  readonly peer: Peer;
  readonly cut: () => void;
}

/** Who sends bodies: a caller with a credential, else a connection. */
interface Peer {
  /** Bytes of its bodies. */
  bytes: number;
  bodies: number;
}

/** A body of so many bytes is not worth the counting. */
const smallBytes = 4096;
/** Who sends too much has so long to take its answer. */
const leaveMs = 1000;
const refused = new WeakSet<Request>();

/** Marks a request that is refused for what others do. */
export function markRefused(request: Request): void {
  refused.add(request);
}

/** Whether a request was refused or cut to make room for others: what its reader then says of it is not its fault. */
export function wasEvicted(request: Request): boolean {
  return refused.has(request);
}

/**
 * A call may have 16 MiB, and a connection 250 calls: without a bound on all of them one connection that sends bodies and never their ends took 3 GB. Over the bound one that is
 * still coming goes: of the peers with at least half of an equal share the slowest body, by its bytes per second, or the largest where all are young. So a peer that holds many bodies back loses them,
 * and one that sends a batch does not. Counted is what comes in, whoever reads it and whenever: a body is held from its first byte until its call is answered.
 */
export function createBodyBudget({ mostBytes, graceMs, isStream, peerOf, onCut }: BodyBudgetOptions): BodyBudget {
  const coming = new Set<Body>();
  const peers = new Map<unknown, Peer>();
  let held = 0;

  function makeRoom(): void {
    const fair = mostBytes / peers.size / 2;
    const now = performance.now();
    let victim: Body | undefined;
    for (const body of coming)
      if (body.peer.bytes >= fair && (victim === undefined || goesBefore(body, victim, now))) victim = body;
    if (victim === undefined) for (const body of coming) if (body.bytes > (victim?.bytes ?? -1)) victim = body;
    victim?.cut();
  }

  /** Of two bodies the slower one goes, when they had time to come, else the larger one. */
  function goesBefore(one: Body, other: Body, now: number): boolean {
    const [age, otherAge] = [now - one.since, now - other.since];
    if (age > graceMs !== otherAge > graceMs) return age > graceMs;
    return age > graceMs ? one.bytes / age < other.bytes / otherAge : one.bytes > other.bytes;
  }

  function join(key: unknown): Peer {
    const peer = peers.get(key) ?? { bytes: 0, bodies: 0 };
    peers.set(key, peer);
    peer.bodies++;
    return peer;
  }

  /** Counts a body from now on: bytes that came of it before, and when it began. */
  function count(request: Request, response: Response, before: Pick<Body, 'bytes' | 'since'>): void {
    let isCut = false;
    let isHere = true;
    const key = peerOf(request);
    const peer = join(key);
    const leave = () => {
      if (!isHere) return;
      isHere = false;
      coming.delete(body);
      held -= body.bytes;
      peer.bytes -= body.bytes;
      if (--peer.bodies === 0) peers.delete(key);
    };
    const body: Body = {
      ...before,
      peer,
      cut() {
        isCut = true;
        leave();
        refused.add(request);
        onCut(request);
        refuse(request, response);
      },
    };
    peer.bytes += body.bytes;
    held += body.bytes;
    if (!request.complete) coming.add(body);
    const push = request.push.bind(request);
    request.push = (chunk: Buffer | null, encoding?: BufferEncoding) => {
      // What comes after the cut is dropped, also the end: whoever reads hears of the connection's.
      if (isCut) return true;
      if (chunk === null) coming.delete(body);
      else {
        body.bytes += chunk.length;
        peer.bytes += chunk.length;
        held += chunk.length;
        if (held > mostBytes) makeRoom();
        if (isCut) return true;
      }
      return push(chunk, encoding);
    };
    response.once('close', leave);
  }

  return (request, response) => {
    const declared = request.headers['content-length'];
    if (request.method === 'GET' || (declared !== undefined && Number(declared) <= smallBytes)) return;
    const since = performance.now();
    // Some came while the caller was identified.
    let bytes = request.readableLength;
    if (declared !== undefined || bytes > smallBytes) {
      if (!isStream(request)) count(request, response, { bytes, since });
      return;
    }
    // Most bodies of undeclared length, those of gRPC, are small.
    const push = request.push;
    request.push = (chunk: Buffer | null, encoding?: BufferEncoding) => {
      const sum = bytes + (chunk?.length ?? 0);
      if (sum <= smallBytes) {
        bytes = sum;
        return push.call(request, chunk, encoding);
      }
      request.push = push;
      if (!isStream(request)) count(request, response, { bytes, since });
      return request.push(chunk, encoding);
    };
  };
}

/** On HTTP/2 the stream was never processed, which clients may send again without a thought; on HTTP/1.1 the connection has to go, past whoever may be about to answer. */
function refuse({ socket }: Request, response: Response): void {
  if ('stream' in response) {
    response.stream.close(constants.NGHTTP2_REFUSED_STREAM);
    return;
  }
  if (!response.headersSent)
    socket.end('HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n');
  setTimeout(() => socket.destroy(), leaveMs).unref();
}
