import { constants } from 'node:http2';
import type { ServiceError } from '../messages/service-error.ts';
import { overloaded } from '../overload/admission-controller.ts';
import { toConnectError } from '../rpc/error-mapping.ts';
import type { RequestContext, Response } from '../rpc/request-context.ts';
import { type EarlyAnswers, earlyAnswers, lastAnswer } from './early-answer.ts';
import { StreamResponse } from './stream-exchange.ts';

/** Counts the bytes of all bodies together, so that no number of them exhausts the memory. */
export type BodyBudget = (context: RequestContext, response: Response) => void;

export interface BodyBudgetOptions {
  /** Maximum bytes of all bodies of open calls. */
  readonly maxBytes: number;
  /** Milliseconds after which an unfinished body counts as slow. */
  readonly graceMs: number;
  /** Whether a body is processed as it arrives, not held as a whole. */
  readonly isStream: (context: RequestContext) => boolean;
  /** Called for each request that is evicted. */
  readonly onEvicted: (context: RequestContext) => void;
}

interface Body {
  bytes: number;
  /** When the body began, by performance.now(). */
  readonly since: number;
  readonly peer: Peer;
  readonly evict: () => void;
}

/** A sender of bodies: a caller with a credential, else a connection. */
interface Peer {
  /** Bytes of its bodies. */
  bytes: number;
  bodies: number;
}

/** Smaller bodies are not counted. */
const smallBytes = 4096;
/** Time in which an evicted HTTP/1.1 client can read its answer. */
const readAnswerMs = 1000;

/**
 * A call may have 16 MiB and a connection 250 calls: without a common bound, one connection that
 * never ended its bodies took 3 GB. Above the bound an unfinished body is evicted: among the peers
 * with at least half an equal share, the slowest one by bytes per second, or the largest while all
 * are young. So a peer that holds bodies back loses them; one that sends a batch does not. A body
 * counts from its first byte until its call is answered, no matter how it is read.
 */
export function createBodyBudget({ maxBytes, graceMs, isStream, onEvicted }: BodyBudgetOptions): BodyBudget {
  const answers = earlyAnswers(toConnectError(bodiesFull(maxBytes)));
  const unfinished = new Set<Body>();
  const peers = new Map<unknown, Peer>();
  let heldBytes = 0;

  function makeRoom(): void {
    const fairBytes = maxBytes / peers.size / 2;
    const now = performance.now();
    let victim: Body | undefined;
    for (const body of unfinished)
      if (body.peer.bytes >= fairBytes && (victim === undefined || isEvictedBefore(body, victim, now))) victim = body;
    if (victim === undefined) for (const body of unfinished) if (body.bytes > (victim?.bytes ?? -1)) victim = body;
    victim?.evict();
  }

  /**
   * Whether `one` is evicted before `other`: the slower one after the grace time, else the larger.
   */
  function isEvictedBefore(one: Body, other: Body, now: number): boolean {
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

  /** Counts a body from now on; `before`: when it began, and its bytes so far. */
  function count(context: RequestContext, response: Response, before: Pick<Body, 'bytes' | 'since'>): void {
    const { request, peer: key } = context;
    let isOpen = true;
    let isDropped = false;
    const peer = join(key);
    const release = () => {
      if (!isOpen) return;
      isOpen = false;
      unfinished.delete(body);
      heldBytes -= body.bytes;
      peer.bytes -= body.bytes;
      if (--peer.bodies === 0) peers.delete(key);
    };
    const body: Body = {
      ...before,
      peer,
      evict() {
        isDropped = true;
        context.isEvicted = true;
        release();
        onEvicted(context);
        closeEvicted(context, response, answers);
      },
    };
    peer.bytes += body.bytes;
    heldBytes += body.bytes;
    if (!request.complete) unfinished.add(body);
    context.onBodyChunk = (chunk) => {
      // Drops what follows an eviction, including the end: the reader sees the connection's end
      // instead.
      if (isDropped) return false;
      if (chunk === null) unfinished.delete(body);
      else {
        body.bytes += chunk.length;
        peer.bytes += chunk.length;
        heldBytes += chunk.length;
        if (heldBytes > maxBytes) makeRoom();
      }
      return !isDropped;
    };
    response.once('close', release);
  }

  return (context, response) => {
    const { request } = context;
    const declared = request.headers['content-length'];
    if (request.method === 'GET' || (declared !== undefined && Number(declared) <= smallBytes)) return;
    const since = performance.now();
    const readsStream = response instanceof StreamResponse;
    // Part of the body may have arrived while the caller was identified. Who reads the stream of
    // such a call counts that too.
    let bytes = readsStream ? 0 : request.readableLength;
    if (declared !== undefined || bytes > smallBytes) {
      if (isStream(context)) return;
      count(context, response, { bytes, since });
    } else {
      // Most bodies of undeclared length, those of gRPC, are small.
      context.onBodyChunk = (chunk) => {
        const sum = bytes + (chunk?.length ?? 0);
        if (sum <= smallBytes) {
          bytes = sum;
          return true;
        }
        context.onBodyChunk = undefined;
        if (!isStream(context)) count(context, response, { bytes, since });
        return context.takesChunk(chunk);
      };
    }
    if (readsStream) return;
    const push = request.push;
    request.push = (chunk: Buffer | null, encoding?: BufferEncoding) =>
      context.takesChunk(chunk) ? push.call(request, chunk, encoding) : true;
  };
}

function bodiesFull(maxBytes: number): ServiceError {
  return overloaded(
    `the request bodies that this instance holds reached ${maxBytes} bytes; nothing was stored: retry after the delay in RetryInfo, with smaller batches, or at another instance`,
  );
}

/**
 * HTTP/2: REFUSED_STREAM says that the stream was not processed, so clients may retry safely.
 * HTTP/1.1: the connection closes, bypassing any other answer.
 */
function closeEvicted(context: RequestContext, response: Response, answers: EarlyAnswers): void {
  const { socket } = context.request;
  if ('stream' in response) {
    response.stream.close(constants.NGHTTP2_REFUSED_STREAM);
    return;
  }
  if (!response.headersSent) socket.end(lastAnswer(context, answers));
  setTimeout(() => socket.destroy(), readAnswerMs).unref();
}
