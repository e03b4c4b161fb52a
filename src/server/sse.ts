import { create, type DescMessage, type DescMethod, type Message, type MessageInitShape } from '@bufbuild/protobuf';
import { BatchSchema, BatchService } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { MessageSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import { MessageChangedSchema, MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';
import type { Identify } from '../auth/identity.ts';
import type { BatchWatch } from '../batches/watch.ts';
import { limits } from '../limits.ts';
import type { Caller, Scope } from '../messages/caller.ts';
import { invalidField } from '../messages/service-error.ts';
import type { StoredMessage } from '../messages/stored-row.ts';
import type { Events } from '../observability/events/index.ts';
import type { CredentialWatch } from '../rpc/credential-watch.ts';
import { lastChannelType } from '../rpc/fast-validate.ts';
import { assertScope } from '../rpc/interceptors/authenticate.ts';
import { assertKnown, queryOf } from '../rpc/interceptors/query-parameters.ts';
import { mapIterable } from '../rpc/map-iterable.ts';
import { changeKindOf, toMessage } from '../rpc/message-mapping.ts';
import type { Taker } from '../rpc/request-context.ts';
import { toBatch } from '../rpc/services/batch-mapping.ts';
import type { Frame, Tails } from '../tailing/tails.ts';
import { type OpenSse, type SseCall, type SseRoute, serveSse } from './event-stream.ts';

export interface SseParts {
  readonly tails: Tails;
  readonly batchWatch: BatchWatch;
  readonly identify: Identify | undefined;
  readonly credentials: CredentialWatch;
  readonly events: Events;
  /** Renders a message as the JSON routes do. */
  readonly writeJson: (schema: DescMessage, message: Message) => string;
}

const channelPath = /^\/v1\/channels\/([^/?]+)\/([^/?]+)\/events(?:\?(.*))?$/;
/**
 * The id of a batch's last event. An EventSource that reconnects with it gets 204: no more events.
 */
const batchEndedId = 'ended';
const batchPath = /^\/v1\/batches\/([^/?]+)\/events(?:\?(.*))?$/;

/** The RPC that a GET of this URL streams; undefined: not an event stream. */
export function sseMethodOf(url: string): DescMethod | undefined {
  if (channelPath.test(url)) return MessageService.method.subscribe;
  return batchPath.test(url) ? BatchService.method.watchBatch : undefined;
}

/**
 * Serves streams as Server-Sent Events.
 * 1. `GET /v1/channels/{channel_type}/{channel_id}/events`: the live tail of a channel. `id` is the
 *    sequence, so `Last-Event-ID` resumes.
 * 2. `GET /v1/batches/{batch_id}/events`: the progress of a batch.
 */
export function createSse(parts: SseParts): Taker {
  return (context, response) => {
    const { request } = context;
    if (context.protocol !== 'sse') return undefined;
    if (request.method !== 'GET' && request.method !== 'HEAD') return undefined;
    const route = routeOf(request.url ?? '', parts);
    return route === undefined ? undefined : serveSse(context, response, route, parts.events);
  };
}

const subscribe = `${MessageService.typeName}/${MessageService.method.subscribe.name}`;
const watchBatch = `${BatchService.typeName}/${BatchService.method.watchBatch.name}`;

function routeOf(url: string, parts: SseParts): SseRoute | undefined {
  const channel = channelPath.exec(url);
  if (channel !== null) return { method: subscribe, open: openChannel(channel, parts) };
  const batch = batchPath.exec(url);
  return batch === null ? undefined : { method: watchBatch, open: openBatch(batch, parts) };
}

function openChannel([, type = '', id = '', search = '']: RegExpExecArray, parts: SseParts): OpenSse {
  return async (call) => {
    const { header } = call.context;
    const query = queryOf(search);
    const caller = await admitCaller(call, query, { scope: 'read', identify: parts.identify });
    assertKnown(query, ['after_seq', 'from_now', 'uid', 'login_uid', 'access_token']);
    if (query.has('uid') && query.has('login_uid'))
      throw invalidField('login_uid', 'is an alias of uid; set only one of them');
    const channelType = Number(type);
    if (!/^\d{1,2}$/.test(type) || channelType < 1 || channelType > lastChannelType)
      throw invalidField('channel_type', `must be a number from 1 to ${lastChannelType}`);
    const channels = [{ channelType, channelId: decode('channel_id', id, 513), ...cursorOf(header, query) }];
    const uidName = query.has('login_uid') ? 'login_uid' : 'uid';
    const uid = query.get(uidName) ?? '';
    if (!isId(uid, limits.idBytes))
      throw invalidField(uidName, `must be at most ${limits.idBytes} bytes of UTF-8, without U+0000`);
    const frames = parts.credentials.whileValid(call, (signal) =>
      parts.tails.subscribe({ caller, uid, allOfUid: false, channels, signal }),
    );
    return mapIterable(frames, (frame) => toSseText(frame, parts.writeJson));
  };
}

function openBatch([, id = '', search = '']: RegExpExecArray, parts: SseParts): OpenSse {
  return async (call) => {
    const { header } = call.context;
    const query = queryOf(search);
    const caller = await admitCaller(call, query, { scope: 'send', identify: parts.identify });
    assertKnown(query, ['access_token']);
    if (header.get('last-event-id') === batchEndedId) return undefined;
    const batchId = decode('batch_id', id, 64);
    const batches = parts.credentials.whileValid(call, (signal) => parts.batchWatch.watch(caller, batchId, signal));
    return mapIterable(batches, (batch) => {
      const data = parts.writeJson(BatchSchema, create(BatchSchema, toBatch(batch)));
      return `${batch.endedAt === null ? '' : `id: ${batchEndedId}\n`}event: batch\ndata: ${data}\n\n`;
    });
  };
}

async function admitCaller(
  { context }: SseCall,
  query: URLSearchParams,
  { scope, identify }: { scope: Scope; identify: Identify | undefined },
): Promise<Caller> {
  // EventSource cannot set headers; the query is the only other place for a token.
  const { header } = context;
  const token = query.get('access_token');
  if (token !== null && header.get('authorization') === null) header.set('authorization', `Bearer ${token}`);
  if (identify !== undefined) context.caller = await identify(header, context.certificate);
  assertScope(context.caller, scope, 'the event stream');
  return context.caller;
}

/** `<seq>`, or `<seq>.<change>` as the ids of events are. */
function cursorOf(
  header: Headers,
  query: URLSearchParams,
): { afterSeq: number; afterChange?: number; fromNow: boolean } {
  const fromNow = booleanOf('from_now', query.get('from_now') ?? 'false');
  const lastEventId = header.get('last-event-id') || null;
  const text = lastEventId ?? query.get('after_seq');
  if (text === null || text === '') return { afterSeq: 0, fromNow };
  const [, seq = '', change] = /^(\d{1,16})(?:\.(\d{1,16}))?$/.exec(text) ?? [];
  const [afterSeq, afterChange] = [Number(seq), Number(change ?? 0)];
  if (seq === '' || !Number.isSafeInteger(afterSeq) || !Number.isSafeInteger(afterChange))
    throw invalidField(
      lastEventId === null ? 'after_seq' : 'Last-Event-ID',
      'must be a sequence, a whole number, or the id of an event',
    );
  return { afterSeq, fromNow: false, ...(change === undefined ? {} : { afterChange }) };
}

function booleanOf(field: string, text: string): boolean {
  if (['true', '1'].includes(text)) return true;
  if (['false', '0', ''].includes(text)) return false;
  throw invalidField(field, 'must be true or false');
}

function decode(field: string, text: string, bytes: number): string {
  try {
    const id = decodeURIComponent(text);
    if (id !== '' && isId(id, bytes)) return id;
  } catch {
    // Reported below.
  }
  throw invalidField(field, `must be 1 to ${bytes} bytes of UTF-8`);
}

function isId(text: string, bytes: number): boolean {
  return !text.includes('\0') && Buffer.byteLength(text) <= bytes;
}

/**
 * The JSON of messages: readers of a channel share both, so that each is rendered once. The ids
 * differ where readers have received different changes.
 */
const messageTexts = new WeakMap<StoredMessage, string>();

/** A message that is not stored has no id, so EventSource keeps the last one. */
function toSseText(frame: Frame, writeJson: SseParts['writeJson']): string {
  if (frame.kind === 'heartbeat' || frame.kind === 'all-caught-up') return ': heartbeat\n\n';
  // With an id: a `from_now` reader that is disconnected before its first message resumes here.
  if (frame.kind === 'caught-up')
    return `id: ${frame.lastSeq}.${frame.lastChange}\nevent: caught_up\ndata: {"last_seq":${frame.lastSeq},"last_change":${frame.lastChange}}\n\n`;
  const { id: channelId, type: channelType } = frame.channel;
  const initOf = (message: StoredMessage): MessageInitShape<typeof MessageSchema> =>
    toMessage({ channelId, channelType }, message);
  if (frame.kind === 'changed') {
    const change = {
      changeNo: BigInt(frame.lastChange),
      kind: changeKindOf(frame.change),
      message: initOf(frame.message),
    };
    const data = writeJson(MessageChangedSchema, create(MessageChangedSchema, change));
    return `id: ${frame.lastSeq}.${frame.lastChange}\nevent: changed\ndata: ${data}\n\n`;
  }
  const { messageSeq } = frame.message;
  const data =
    messageTexts.get(frame.message) ?? writeJson(MessageSchema, create(MessageSchema, initOf(frame.message)));
  messageTexts.set(frame.message, data);
  return `${messageSeq === 0 ? '' : `id: ${messageSeq}.${frame.lastChange}\n`}event: message\ndata: ${data}\n\n`;
}
