import { create, type DescMessage, type Message, type MessageInitShape } from '@bufbuild/protobuf';
import { MessageSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import { trustedCaller } from '../domain/caller.ts';
import { Failure, invalidField } from '../domain/failure.ts';
import type { Frame, Tails } from '../service/tail.ts';
import { assertScope } from './authenticate.ts';
import { callerSignal, contextValuesOf, type Request, type Response, webHeaders } from './exchange.ts';
import { toConnectError, toHttp } from './failures.ts';
import { certificateKey, type Identify } from './identity.ts';
import { toMessage } from './stored-message.ts';

export interface EventsParts {
  readonly tails: Tails;
  readonly identify: Identify | undefined;
  /** A message as the JSON routes write it. */
  readonly writeJson: (schema: DescMessage, message: Message) => string;
}

const path = /^\/v1\/channels\/([^/?]+)\/([^/?]+)\/events(?:\?(.*))?$/;
/** Whether a GET of this URL is for the event stream. */
export const isEventStream = (url: string): boolean => path.test(url);
/** A reader that takes nothing for so long is cut: its EventSource comes back by itself, with the last id that it has. */
const slowMs = 60_000;
/** What EventSource waits before it comes back. */
const retryMs = 1000;

/**
 * The live tail of one channel as Server-Sent Events: `GET /v1/channels/{channel_type}/{channel_id}/events`. `id` is the sequence, so that `Last-Event-ID` resumes. False: the
 * request is for somebody else.
 */
export function createEventStream({
  tails,
  identify,
  writeJson,
}: EventsParts): (request: Request, response: Response) => boolean {
  async function stream(request: Request, response: Response, parts: RegExpExecArray): Promise<void> {
    const { controller, release } = callerSignal(response);
    try {
      const call = await callOf(request, parts, identify);
      const frames = tails.subscribe({ ...call, signal: controller.signal })[Symbol.asyncIterator]();
      // The first frame before the headers: what is refused is an error, not a stream.
      let next = await frames.next();
      response.writeHead(200, {
        'content-type': 'text/event-stream; charset=utf-8',
        'cache-control': 'no-store',
        'x-accel-buffering': 'no',
      });
      await write(response, `retry: ${retryMs}\n\n`);
      while (next.done !== true) {
        await write(response, eventOf(next.value, writeJson));
        next = await frames.next();
      }
      response.end();
    } catch (error) {
      if (response.destroyed) return;
      const failure = toConnectError(error);
      const { status, body } = toHttp(failure);
      if (response.headersSent) {
        // EventSource comes back by itself; others read why.
        response.end(`event: error\ndata: ${JSON.stringify(body)}\n\n`);
        return;
      }
      for (const [name, value] of failure.metadata) response.setHeader(name, value);
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(JSON.stringify(body));
    } finally {
      release();
      controller.abort(new Failure({ reason: 'STOPPING', message: 'the stream has ended', metadata: {} }));
    }
  }

  return (request, response) => {
    if (request.method !== 'GET') return false;
    const parts = path.exec(request.url ?? '');
    if (parts === null) return false;
    void stream(request, response, parts);
    return true;
  };
}

async function callOf(
  request: Request,
  [, type = '', id = '', search = '']: RegExpExecArray,
  identify: Identify | undefined,
) {
  const query = new URLSearchParams(search);
  const header = webHeaders(request.headers);
  // EventSource sets no headers; a query is the one other place that a page can put its token.
  const token = query.get('access_token');
  if (token !== null && header.get('authorization') === null) header.set('authorization', `Bearer ${token}`);
  const values = contextValuesOf(request);
  const caller = identify === undefined ? trustedCaller : await identify(header, values.get(certificateKey));
  assertScope(caller, 'read', 'the event stream');
  const channelType = Number(type);
  if (!Number.isInteger(channelType) || channelType < 1 || channelType > 12)
    throw invalidField('channel_type', 'must be a number from 1 to 12');
  return {
    caller,
    uid: query.get('uid') ?? query.get('login_uid') ?? '',
    allOfUid: false,
    channels: [{ channelType, channelId: decode(id), ...cursorOf(header, query) }],
  };
}

function cursorOf(header: Headers, query: URLSearchParams): { afterSeq: number; fromNow: boolean } {
  const text = header.get('last-event-id') ?? query.get('after_seq');
  if (text === null || text === '') return { afterSeq: 0, fromNow: query.get('from_now') === 'true' };
  const afterSeq = Number(text);
  if (!/^\d{1,16}$/.test(text) || !Number.isSafeInteger(afterSeq))
    throw invalidField('after_seq', 'or Last-Event-ID must be a sequence: a whole number');
  return { afterSeq, fromNow: false };
}

function decode(text: string): string {
  try {
    const id = decodeURIComponent(text);
    if (id !== '' && !id.includes('\0') && Buffer.byteLength(id) <= 513) return id;
  } catch {
    // Said below.
  }
  throw invalidField('channel_id', 'must be 1 to 513 bytes of UTF-8');
}

/** A message that is not stored has no id: EventSource keeps the last one that has. */
function eventOf(frame: Frame, writeJson: EventsParts['writeJson']): string {
  if (frame.kind === 'heartbeat') return ': heartbeat\n\n';
  if (frame.kind === 'caught-up') return `event: caught_up\ndata: {"last_seq":${frame.lastSeq}}\n\n`;
  const { id: channelId, type: channelType } = frame.channel;
  const init: MessageInitShape<typeof MessageSchema> = toMessage({ channelId, channelType }, frame.message);
  const data = writeJson(MessageSchema, create(MessageSchema, init));
  return `${frame.message.messageSeq === 0 ? '' : `id: ${frame.message.messageSeq}\n`}event: message\ndata: ${data}\n\n`;
}

async function write(response: Response, text: string): Promise<void> {
  if (response.write(text)) return;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const timer = setTimeout(() => {
    response.destroy();
    reject(new Failure({ reason: 'READER_TOO_SLOW', message: 'the reader takes nothing', metadata: {} }));
  }, slowMs);
  const done = () => resolve();
  response.once('drain', done).once('close', done);
  try {
    await promise;
  } finally {
    clearTimeout(timer);
    response.off('drain', done).off('close', done);
  }
}
