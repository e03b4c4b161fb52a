import { createHash } from 'node:crypto';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { ServiceImpl } from '@connectrpc/connect';
import type {
  GetAllowlistResponseSchema,
  LegacyListedUidSchema,
} from '../../../gen/sendbatch/v1/channel_service_pb.ts';
import type { ChannelType } from '../../../gen/sendbatch/v1/message_pb.ts';
import type {
  LegacyConversationSchema,
  MessageService,
  SyncConversationsRequest,
} from '../../../gen/sendbatch/v1/message_service_pb.ts';
import type { Channels, Named } from '../../channels/channels.ts';
import { limits } from '../../limits.ts';
import { peerOf, personType } from '../../messages/channel.ts';
import { bytesOf } from '../../messages/page.ts';
import { invalidField } from '../../messages/service-error.ts';
import type { Inbox } from '../../reading/inbox.ts';
import type { Reader } from '../../reading/read-access.ts';
import { assertReached, type ReadChannel } from '../../reading/read-channel.ts';
import { toLegacyMessage } from '../message-mapping.ts';
import { callerOf, requestContextOf } from '../request-context.ts';

export interface LegacyParts {
  readonly readChannel: ReadChannel;
  readonly inbox: Inbox;
}

type Methods = Pick<ServiceImpl<typeof MessageService>, 'getMessage' | 'syncConversations' | 'getRoute'>;

/** Implements the RPCs of MessageService that exist only for callers of the legacy server. */
export function createLegacyMethods({ readChannel, inbox }: LegacyParts): Methods {
  return {
    async getMessage({ loginUid, channelType, channelId, messageId, clientMsgNo }, context) {
      const page = await readChannel.find({
        caller: callerOf(context),
        uid: loginUid,
        channelType,
        channelId,
        seqs: [],
        ids: messageId === 0n ? [] : [Number(messageId)],
        keys: messageId === 0n ? [clientMsgNo] : [],
      });
      const message = page.messages.at(-1);
      return message === undefined ? {} : { message: toLegacyMessage(page, message, loginUid) };
    },

    async syncConversations(request, context) {
      const reader = { caller: callerOf(context), uid: request.uid };
      const isJson = requestContextOf(context.values).route !== undefined;
      return { conversations: await conversationsOf(request, reader, { readChannel, inbox, isJson }) };
    },

    getRoute: () => ({ tcpAddr: '', wsAddr: '', wssAddr: '' }),
  };
}

type Row = Awaited<ReturnType<Inbox['conversations']>>[number];
type Conversation = MessageInitShape<typeof LegacyConversationSchema>;

/** Conversations of an answer without pages, and the default and maximum page size. */
const unpagedConversations = 1000;
const defaultPageSize = 100;
const maxPageSize = 500;
/**
 * Bytes of an answer: after `fullBytes` a conversation has its last message only, and above
 * `mostBytes` the call is refused. Clients of RPCs take 4 MiB unless told otherwise.
 */
const rpcBounds = { fullBytes: limits.pageBytes / 2, mostBytes: limits.pageBytes };
const jsonBounds = { fullBytes: limits.pageBytes, mostBytes: limits.requestBytes };
/** Channels read concurrently. */
const readConcurrency = 4;

async function conversationsOf(
  request: SyncConversationsRequest,
  reader: Reader,
  { readChannel, inbox, isJson }: LegacyParts & { readonly isJson: boolean },
): Promise<Conversation[]> {
  const { fullBytes, mostBytes } = isJson ? jsonBounds : rpcBounds;
  const knownSeqs = parseLastSeqs(request.lastMsgSeqs);
  if (request.msgCount === 0) return [];
  const rows = await rowsOf(request, reader, inbox);
  const unreadOnly = request.version > 0n || request.onlyUnread === 1;
  const wanted = rows.flatMap((row) => {
    const id = row.channelType === personType ? peerOf(request.uid, row.channelId) : row.channelId;
    const knownSeq = knownSeqs.get(`${id}:${row.channelType}`);
    if (knownSeq === undefined && request.excludeChannelTypes.includes(row.channelType)) return [];
    const channel = { type: row.channelType, id };
    assertReached(knownSeq ?? 0, row, { field: 'last_msg_seqs', channel });
    const afterSeq = knownSeq ?? (unreadOnly ? row.readSeq : 0);
    return row.last !== undefined && row.last.messageSeq > afterSeq ? [{ row, id, afterSeq }] : [];
  });
  const conversations: Conversation[] = [];
  let bytes = 0;
  for (let start = 0; start < wanted.length; start += readConcurrency) {
    const part = wanted.slice(start, start + readConcurrency);
    const limit = bytes > fullBytes ? 1 : request.msgCount;
    const pages = await Promise.all(
      part.map(({ row, afterSeq }) =>
        readChannel.page({ ...reader, ...row, afterSeq, beforeSeq: 0, limit, descending: true, legacy: true }),
      ),
    );
    for (const [index, { row, id }] of part.entries()) {
      const page = pages[index];
      const [last] = page?.messages ?? [];
      if (page === undefined || last === undefined) continue;
      const recents = bytes > fullBytes ? [last] : page.messages;
      bytes += bytesOf(recents);
      if (bytes > mostBytes)
        throw invalidField(
          'page_size',
          `is required: the answer would exceed ${mostBytes} bytes; request pages with page and page_size`,
        );
      conversations.push({
        channelId: id,
        channelType: row.channelType as ChannelType,
        unread: row.unread,
        timestamp: BigInt(Math.floor(last.acceptedAt / 1000)),
        lastMsgSeq: BigInt(last.messageSeq),
        lastClientMsgNo: last.clientMsgNo,
        readedToMsgSeq: BigInt(row.readSeq),
        version: BigInt(last.acceptedAt),
        recents: recents.map((message) => toLegacyMessage(page, message, request.uid)),
      });
    }
  }
  return conversations;
}

/** The conversations of the requested page, newest message first. */
async function rowsOf({ page, pageSize }: SyncConversationsRequest, reader: Reader, inbox: Inbox): Promise<Row[]> {
  const size = page === 0 ? unpagedConversations : Math.min(pageSize || defaultPageSize, maxPageSize);
  const from = page === 0 ? 0 : (page - 1) * size;
  let before: Parameters<Inbox['conversations']>[1];
  let skippedOrTaken = 0;
  const rows: Row[] = [];
  // Bounded: each iteration passes a thousand conversations of one user.
  while (rows.length < size) {
    const found = await inbox.conversations(reader, before, unpagedConversations);
    rows.push(...found.slice(Math.max(0, from - skippedOrTaken)).slice(0, size - rows.length));
    skippedOrTaken += found.length;
    const last = found.at(-1);
    if (last === undefined || found.length < unpagedConversations) break;
    before = { place: last.place, channelKey: last.channelKey };
  }
  return rows;
}

/**
 * Parses `channel_id:channel_type:last_msg_seq|…` by channel and type. An id may contain colons.
 */
function parseLastSeqs(text: string): Map<string, number> {
  const seqs = new Map<string, number>();
  for (const part of text.split('|')) {
    if (part === '') continue;
    const [, channel, seq] = /^(.+:\d{1,3}):(\d{1,16})$/s.exec(part) ?? [];
    if (channel === undefined || !Number.isSafeInteger(Number(seq)))
      throw invalidField('last_msg_seqs', 'must be entries channel_id:channel_type:last_msg_seq, joined with |');
    seqs.set(channel, Number(seq));
  }
  return seqs;
}

/** Maximum entries of an unpaged list: about one megabyte and 50 ms. */
const maxUnpagedEntries = 20_000;
/** Bytes of an entry besides its uid. */
const listedBytes = 40;

/** A whole list, as the legacy server answers it. */
export async function wholeAllowlist(
  channels: Channels,
  named: Named,
): Promise<MessageInitShape<typeof GetAllowlistResponseSchema>> {
  const entries: MessageInitShape<typeof LegacyListedUidSchema>[] = [];
  let bytes = 0;
  let after = '';
  do {
    const { entries: page, next } = await channels.list(named, 'allowed', after, limits.listPage);
    for (const { uid, createdAt, updatedAt } of page) {
      bytes += Buffer.byteLength(uid) + listedBytes;
      entries.push({
        id: idOf(uid),
        uid,
        createdAt: timestampFromMs(createdAt),
        updatedAt: timestampFromMs(updatedAt),
      });
    }
    if (entries.length > maxUnpagedEntries || bytes > limits.pageBytes)
      throw invalidField(
        'channel_id',
        `has an allowlist of more than ${maxUnpagedEntries} uids, or ${limits.pageBytes} bytes; read it in pages with GET /v1/channels/{channel_type}/{channel_id}/allowlist`,
      );
    after = next;
  } while (after !== '');
  return { entries };
}

/** The legacy server's ids are 64-bit hashes, of which JSON numbers keep 53 bits. */
function idOf(uid: string): bigint {
  return createHash('sha256').update(uid).digest().readBigUInt64BE() >> 11n;
}
