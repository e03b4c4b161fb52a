import { create } from '@bufbuild/protobuf';
import { durationFromMs } from '@bufbuild/protobuf/wkt';
import type { HandlerContext, ServiceImpl } from '@connectrpc/connect';
import {
  type MessageService,
  SendBatchResponseSchema,
  SendMode,
} from '../../../gen/sendbatch/v1/message_service_pb.ts';
import type { Changes } from '../../changes/changes.ts';
import { limits } from '../../limits.ts';
import type { Outcome } from '../../messages/append-plan.ts';
import { trustedCaller } from '../../messages/caller.ts';
import { bytesOf } from '../../messages/page.ts';
import { ServiceError } from '../../messages/service-error.ts';
import type { CallCounts } from '../../observability/events/index.ts';
import type { Inbox } from '../../reading/inbox.ts';
import type { ReadChannel } from '../../reading/read-channel.ts';
import type { Broadcast } from '../../sending/broadcast.ts';
import type { SendBatch } from '../../sending/send-batch.ts';
import type { Tails } from '../../tailing/tails.ts';
import type { CredentialWatch } from '../credential-watch.ts';
import { refusalOf } from '../error-mapping.ts';
import { legacyRange, toLegacyMessage } from '../message-mapping.ts';
import { PageResponse } from '../page-response.ts';
import { allStored, StoredResponse } from '../plain-batch/index.ts';
import { callerOf, cancellationOf, requestContextOf } from '../request-context.ts';
import { requestIdOf } from '../request-id.ts';
import { timestampMs } from '../timestamps.ts';
import { createChangeMethods } from './change-methods.ts';
import { createLegacyMethods } from './legacy-methods.ts';
import { rateLimitHeaders } from './rate-limit-headers.ts';
import { createReadersMethod, type ReachMethodsParts } from './reach-methods.ts';
import { createTailMethods } from './tail-methods.ts';
import { formatOf } from './template-service.ts';

/** What MessageService needs. */
export interface MessageServiceParts extends ReachMethodsParts {
  readonly version: string;
  readonly requestTimeoutMs: number;
  readonly sendBatch: SendBatch;
  readonly broadcast: Broadcast;
  readonly readChannel: ReadChannel;
  readonly tails: Tails;
  readonly inbox: Inbox;
  readonly changes: Changes;
  readonly credentials: CredentialWatch;
}

/** Implements sendbatch.v1.MessageService: each RPC converts between the proto and a use case. */
export function createMessageService(parts: MessageServiceParts): ServiceImpl<typeof MessageService> {
  return {
    ...createTailMethods(parts),
    ...createLegacyMethods(parts),
    ...createChangeMethods(parts),
    ...createReadersMethod(parts),
    async sendBatch(request, context) {
      const counts: CallCounts = { messages: request.messages.length };
      requestContextOf(context.values).counts = counts;
      const outcomes = await parts.sendBatch({
        messages: request.messages,
        templates: request.templates.map((each) => ({ ...each, format: formatOf(each.format) })),
        atomic: request.mode === SendMode.ATOMIC,
        validateOnly: request.validateOnly,
        requestId: requestIdOf(request.requestId, context.requestHeader.get('idempotency-key')),
        expectedLastSeqs: request.expectedLastSeqs.map((each) => ({ ...each, lastSeq: Number(each.lastSeq) })),
        signal: cancellationOf(context.values, context),
        caller: callerOf(context),
        onRateLimit: rateLimitHeaders(context),
      });
      setRetryAfter(outcomes, context);
      const { accepted, duplicates, refused } = Object.assign(counts, countOutcomes(outcomes));
      if (allStored(outcomes)) return new StoredResponse(outcomes, { accepted, duplicates });
      return create(SendBatchResponseSchema, {
        results: outcomes.map((outcome) => ({
          ...toResultFields(outcome),
          ...(outcome.kind === 'refused' ? { error: refusalOf(outcome.refusal) } : {}),
        })),
        acceptedCount: accepted,
        duplicateCount: duplicates,
        refusedCount: refused,
      });
    },

    async send(request, context) {
      const { message } = request;
      if (message === undefined) throw new Error('message is required by its rule');
      const counts: CallCounts = { messages: 1 };
      requestContextOf(context.values).counts = counts;
      const [outcome] = await parts.sendBatch({
        messages: [message],
        atomic: false,
        validateOnly: request.validateOnly,
        requestId: requestIdOf(request.requestId, context.requestHeader.get('idempotency-key')),
        expectedLastSeqs: [],
        signal: cancellationOf(context.values, context),
        caller: callerOf(context),
        onRateLimit: rateLimitHeaders(context),
      });
      if (outcome === undefined) throw new Error('no outcome for the message');
      Object.assign(counts, countOutcomes([outcome]));
      if (outcome.kind === 'refused') throw new ServiceError(outcome.refusal);
      return toResultFields(outcome);
    },

    async broadcast(request, context) {
      const counts: CallCounts = { messages: request.subscribers.length };
      requestContextOf(context.values).counts = counts;
      const refusals = await parts.broadcast({
        ...request,
        atomic: request.mode === SendMode.ATOMIC,
        requestId: requestIdOf(request.requestId, context.requestHeader.get('idempotency-key')),
        signal: cancellationOf(context.values, context),
        caller: callerOf(context),
      });
      counts.refused = refusals.length;
      // The list must stay complete, so the texts are shortened to the stable reason.
      const isLarge = bytesOf(refusals) > limits.pageBytes;
      return {
        failUids: refusals.map((each) => each.uid),
        reason: refusals.map(({ reason }) => (isLarge ? reason.replace(/:.*$/s, '') : reason)),
      };
    },

    async listMessages(request, context) {
      const page = await parts.readChannel.page({
        ...request,
        caller: callerOf(context),
        afterSeq: Number(request.afterSeq),
        beforeSeq: Number(request.beforeSeq),
        filter: {
          ...(request.tagKey === '' ? {} : { tagKey: request.tagKey }),
          ...(request.streamNo === '' ? {} : { streamNo: request.streamNo }),
          ...(request.fromUid === '' ? {} : { fromUid: request.fromUid }),
          ...(request.since === undefined ? {} : { since: timestampMs('since', request.since) }),
          ...(request.until === undefined ? {} : { until: timestampMs('until', request.until) }),
        },
      });
      return new PageResponse(page);
    },

    async syncMessages(request, context) {
      const page = await parts.readChannel.page({
        ...request,
        ...legacyRange(Number(request.startMessageSeq), Number(request.endMessageSeq), request.pullMode),
        uid: request.loginUid,
        caller: callerOf(context),
        limit: Math.min(request.limit, limits.pageMessages),
        legacy: true,
      });
      const messages = page.messages.map((message) => toLegacyMessage(page, message, request.loginUid));
      return {
        startMessageSeq: request.startMessageSeq,
        endMessageSeq: request.endMessageSeq,
        more: page.more ? 1 : 0,
        messages: messages.sort((a, b) => Number(a.messageSeq) - Number(b.messageSeq)),
      };
    },

    async getMessages(request, context) {
      const page = await parts.readChannel.find({
        ...request,
        uid: request.loginUid,
        caller: callerOf(context),
        seqs: request.messageSeqs.map(Number),
        ids: request.messageIds.map(Number),
        keys: request.clientMsgNos,
      });
      return {
        more: page.more ? 1 : 0,
        messages: page.messages.map((message) => toLegacyMessage(page, message, request.loginUid)),
      };
    },

    async getMaxMessageSeq(request, context) {
      const lastSeq = await parts.readChannel.lastSeq({
        ...request,
        uid: request.loginUid,
        caller: callerOf(context),
      });
      return { messageSeq: BigInt(lastSeq) };
    },

    getServerInfo(_request, context) {
      const caller = callerOf(context);
      return {
        version: parts.version,
        limits: {
          batchMessages: limits.batchMessages,
          batchMessagesAdvised: limits.batchMessagesAdvised,
          batchChannels: limits.batchChannels,
          broadcastSubscribers: limits.broadcastSubscribers,
          messageSubscribers: limits.messageSubscribers,
          payloadBytes: limits.payloadBytes,
          requestBytes: limits.requestBytes,
          pageMessages: limits.pageMessages,
          idBytes: limits.idBytes,
          clientMsgNoBytes: limits.clientMsgNoBytes,
          requestIdBytes: limits.requestIdBytes,
          requestTimeout: durationFromMs(parts.requestTimeoutMs),
          subscribeChannels: limits.subscribeChannels,
          listChange: limits.listChange,
          templateBytes: limits.templateBytes,
          pageBytes: limits.pageBytes,
          submitMessages: limits.submitMessages,
          submitBytes: limits.submitBytes,
          scheduleDays: limits.scheduleDays,
        },
        caller: {
          name: caller === trustedCaller ? '' : caller.name,
          isUser: caller.kind === 'user',
          scopes: [...caller.scopes],
        },
      };
    },
  };
}

function countOutcomes(outcomes: readonly Outcome[]): { accepted: number; duplicates: number; refused: number } {
  const counts = { accepted: 0, duplicate: 0, refused: 0 };
  for (const { kind } of outcomes) counts[kind]++;
  return { accepted: counts.accepted, duplicates: counts.duplicate, refused: counts.refused };
}

/** Sets Retry-After when all messages were refused with a retryable reason. */
function setRetryAfter(outcomes: readonly Outcome[], { responseHeader }: HandlerContext): void {
  let longestMs = 0;
  for (const outcome of outcomes) {
    const waitMs = outcome.kind === 'refused' ? (outcome.refusal.retryAfterMs ?? 0) : 0;
    if (waitMs === 0) return;
    longestMs = Math.max(longestMs, waitMs);
  }
  if (longestMs > 0) responseHeader.set('retry-after', String(Math.ceil(longestMs / 1000)));
}

/**
 * The fields that a result shares with the answer to a single send. Generated code has 64-bit
 * fields as bigint.
 */
function toResultFields(outcome: Outcome) {
  const { clientMsgNo } = outcome.message;
  if (outcome.kind === 'refused') return { clientMsgNo };
  return {
    messageId: BigInt(outcome.messageId),
    messageSeq: BigInt(outcome.messageSeq),
    clientMsgNo,
    duplicate: outcome.kind === 'duplicate',
  };
}
