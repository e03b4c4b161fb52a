import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { ServiceImpl } from '@connectrpc/connect';
import type { MessageService, RecallResultSchema } from '../../../gen/sendbatch/v1/message_service_pb.ts';
import type { Changes, RecallOutcome } from '../../changes/changes.ts';
import { limits } from '../../limits.ts';
import { pageOf } from '../../messages/page.ts';
import { refusalOf } from '../error-mapping.ts';
import { changeKindOf, toMessage } from '../message-mapping.ts';
import { parsePageToken } from '../page-token.ts';
import { callerOf } from '../request-context.ts';
import { rateLimitHeaders } from './rate-limit-headers.ts';

type Methods = Pick<ServiceImpl<typeof MessageService>, 'recallMessages' | 'editMessage' | 'listMessageCopies'>;

/** Implements the RPCs of MessageService that change stored messages. */
export function createChangeMethods({ changes }: { readonly changes: Changes }): Methods {
  return {
    async recallMessages({ messageSeqs, messageIds, clientMsgNos, ...request }, context) {
      const outcomes = await changes.recall({
        ...request,
        caller: callerOf(context),
        seqs: messageSeqs.map(Number),
        ids: messageIds.map(Number),
        keys: clientMsgNos,
      });
      return {
        recalledCount: outcomes.filter(({ kind }) => kind === 'recalled').length,
        results: outcomes.map(toRecallResult),
      };
    },

    async editMessage({ messageSeq, ...request }, context) {
      const { message, unchanged, ...channel } = await changes.edit({
        ...request,
        caller: callerOf(context),
        messageSeq: Number(messageSeq),
        expectedRevision: request.expectedRevision,
        signal: context.signal,
        onRateLimit: rateLimitHeaders(context),
      });
      return { message: toMessage(channel, message), unchanged };
    },

    async listMessageCopies({ messageSeq, pageSize, pageToken, ...channel }) {
      const limit = pageSize || limits.pageMessagesDefault;
      // Revisions begin with 0.
      const [afterRevision = -1] = parsePageToken(pageToken);
      const call = { ...channel, messageSeq: Number(messageSeq), afterRevision, limit: limit + 1 };
      const { page, last } = pageOf(await changes.listCopies(call), limit);
      return {
        copies: page.map(({ revision, replacedBy, replacedAt, payload, subscribers }) => ({
          revision,
          replacedBy: changeKindOf(replacedBy),
          replacedAt: timestampFromMs(replacedAt),
          payload,
          subscribers: [...subscribers],
        })),
        nextPageToken: last === undefined ? '' : String(last.revision),
      };
    },
  };
}

function toRecallResult(outcome: RecallOutcome): MessageInitShape<typeof RecallResultSchema> {
  if (outcome.kind === 'refused') {
    const { messageSeq = 0, messageId = 0, clientMsgNo = '' } = outcome.named;
    return {
      messageSeq: BigInt(messageSeq),
      messageId: BigInt(messageId),
      clientMsgNo,
      error: refusalOf(outcome.refusal),
    };
  }
  const { messageSeq, messageId, clientMsgNo } = outcome.message;
  return {
    messageSeq: BigInt(messageSeq),
    messageId: BigInt(messageId),
    clientMsgNo,
    unchanged: outcome.kind === 'unchanged',
  };
}
