import { constants } from 'node:http2';
import type { Request, Response } from './exchange.ts';

/** Bodies that come are counted together, so that no number of them fills the memory. */
export type Intake = (request: Request, response: Response) => void;

export interface IntakeOptions {
  /** Bytes of all bodies of calls that are here. */
  readonly mostBytes: number;
  /** Whether a request's body is taken as it comes, and not held as a whole. */
  readonly isStream: (request: Request) => boolean;
  /** Told of each request that had to make room. */
  readonly onCut: (request: Request) => void;
}

interface Body {
  bytes: number;
  readonly cut: () => void;
}

/** A body of so many bytes is not worth the counting. */
const smallBytes = 4096;
/** Who sends too much has so long to take its answer. */
const leaveMs = 1000;
const refused = new WeakSet<Request>();

/** Whether a request was cut to make room for others: what its reader then says of it is not its fault. */
export function wasCut(request: Request): boolean {
  return refused.has(request);
}

/**
 * A call may have 16 MiB, and a connection 250 calls: without a bound on all of them one connection that sends bodies and never their ends took 3 GB, without any credential, for credentials
 * are looked at when a call is here. Over the bound the largest of those that are still coming goes, so that small calls pass all the while. Counted is what comes in,
 * whoever reads it and whenever: a body is held from its first byte until its call is answered.
 */
export function createIntake({ mostBytes, isStream, onCut }: IntakeOptions): Intake {
  const coming = new Set<Body>();
  let held = 0;

  function makeRoom(): void {
    let largest: Body | undefined;
    for (const body of coming) if (body.bytes > (largest?.bytes ?? -1)) largest = body;
    largest?.cut();
  }

  return (request, response) => {
    const declared = request.headers['content-length'];
    if (request.method === 'GET' || (declared !== undefined && Number(declared) <= smallBytes)) return;
    if (isStream(request)) return;
    let isCut = false;
    const leave = () => {
      coming.delete(body);
      held -= body.bytes;
      body.bytes = 0;
    };
    const body: Body = {
      bytes: 0,
      cut() {
        isCut = true;
        leave();
        refused.add(request);
        onCut(request);
        refuse(request, response);
      },
    };
    coming.add(body);
    const push = request.push.bind(request);
    request.push = (chunk: Buffer | null, encoding?: BufferEncoding) => {
      // What comes after the cut is dropped, also the end: whoever reads hears of the connection's.
      if (isCut) return true;
      if (chunk === null) coming.delete(body);
      else {
        body.bytes += chunk.length;
        held += chunk.length;
        if (held > mostBytes) makeRoom();
        if (isCut) return true;
      }
      return push(chunk, encoding);
    };
    response.once('close', leave);
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
