import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { ServiceImpl } from '@connectrpc/connect';
import type { BatchService, ReachCountsSchema } from '../../../gen/sendbatch/v1/batch_service_pb.ts';
import type { ChannelType } from '../../../gen/sendbatch/v1/message_pb.ts';
import type { MessageService } from '../../../gen/sendbatch/v1/message_service_pb.ts';
import { limits } from '../../limits.ts';
import type { Reach, ReachCounts } from '../../reach/reach.ts';
import { callerOf } from '../request-context.ts';

/** What the RPCs about reach need. */
export interface ReachMethodsParts {
  readonly reach: Reach;
}

/** Implements the RPC of BatchService that counts who has received and read a batch. */
export function createBatchReachMethod({
  reach,
}: ReachMethodsParts): Pick<ServiceImpl<typeof BatchService>, 'getBatchReach'> {
  return {
    async getBatchReach({ batchId }, context) {
      const found = await reach.ofBatch(callerOf(context), batchId, context.signal);
      return {
        reach: {
          batchId: found.batchId,
          countedAt: timestampFromMs(found.countedAt),
          total: toCounts(found.total),
          channelTypes: found.channelTypes.map(({ channelType, ...counts }) => ({
            channelType: channelType as ChannelType,
            counts: toCounts(counts),
          })),
          uncountedCount: found.uncounted,
        },
      };
    },
  };
}

/** Implements the RPC of MessageService that lists who has read a message. */
export function createReadersMethod({
  reach,
}: ReachMethodsParts): Pick<ServiceImpl<typeof MessageService>, 'listReaders'> {
  return {
    async listReaders({ pageSize, pageToken, messageSeq, ...request }, context) {
      const { uids, next } = await reach.readers({
        ...request,
        caller: callerOf(context),
        messageSeq: Number(messageSeq),
        afterUid: pageToken,
        limit: pageSize || limits.listPageDefault,
      });
      return { readers: uids.map((uid) => ({ uid })), nextPageToken: next };
    },
  };
}

function toCounts(counts: ReachCounts): MessageInitShape<typeof ReachCountsSchema> {
  const { messages, recalled, removed, receivers, read, delivered } = counts;
  return {
    messageCount: messages,
    recalledCount: recalled,
    removedCount: removed,
    receiverCount: BigInt(receivers),
    readCount: BigInt(read),
    ...(delivered === undefined ? {} : { deliveredCount: BigInt(delivered) }),
  };
}
