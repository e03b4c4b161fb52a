import { toJsonString } from '@bufbuild/protobuf';
import { BatchReachSchema, type ReachCounts } from '../../../../gen/sendbatch/v1/batch_service_pb.ts';
import { channelTypeName } from '../../channel-type.ts';
import { type ConnectOptions, connectTo } from '../../connect.ts';
import { note, paint, print, printJson } from '../../output/output.ts';

/** Prints who has received and read a batch: a line in total and one per channel type. */
export async function printReach(batchId: string, options: ConnectOptions): Promise<void> {
  const reach = await connectTo(options).client.batchReach(batchId);
  if (options.json) return await printJson(toJsonString(BatchReachSchema, reach));
  const { total, channelTypes, uncountedCount } = reach;
  if (total !== undefined) await print(reachLine('total', total));
  if (channelTypes.length > 1 || channelTypes[0]?.channelType === 0)
    for (const { channelType, counts } of channelTypes)
      if (counts !== undefined)
        await print(reachLine(channelType === 0 ? 'removed channels' : channelTypeName(channelType), counts));
  if (uncountedCount > 0) note(`${uncountedCount} messages have no read state and are not counted`);
}

function reachLine(name: string, counts: ReachCounts): string {
  const { messageCount, recalledCount, removedCount, receiverCount, readCount, deliveredCount } = counts;
  const share = (count: bigint) =>
    receiverCount === 0n ? '' : ` (${((Number(count) * 100) / Number(receiverCount)).toFixed(1)} %)`;
  return [
    paint('bold', name.padEnd(16)),
    `${messageCount} messages`,
    ...(recalledCount > 0 ? [paint('yellow', `${recalledCount} recalled`)] : []),
    ...(removedCount > 0 ? [paint('yellow', `${removedCount} removed`)] : []),
    `${receiverCount} receivers`,
    ...(deliveredCount === undefined ? [] : [`${deliveredCount} delivered${share(deliveredCount)}`]),
    paint('green', `${readCount} read${share(readCount)}`),
  ].join('  ');
}
