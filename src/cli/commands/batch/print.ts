import { toJsonString } from '@bufbuild/protobuf';
import { timestampDate } from '@bufbuild/protobuf/wkt';
import { InvalidArgumentError } from 'commander';
import { type Batch, BatchSchema, BatchState, RecallState } from '../../../../gen/sendbatch/v1/batch_service_pb.ts';
import { reasonOf } from '../../../client/index.ts';
import type { ConnectOptions } from '../../connect.ts';
import { paint, plain, print, printJson } from '../../output/output.ts';

export const states = new Map(
  Object.entries(BatchState).flatMap(([name, value]) =>
    typeof value === 'number' && value > 0 ? [[name.toLowerCase(), value as BatchState] as const] : [],
  ),
);

/** Messages of a batch that have a result. */
export function settledCount({ acceptedCount, duplicateCount, refusedCount }: Batch): number {
  return acceptedCount + duplicateCount + refusedCount;
}

/** Prints a batch in one line, or as JSON. */
export async function printBatch(batch: Batch, { json }: ConnectOptions): Promise<void> {
  if (json) return await printJson(toJsonString(BatchSchema, batch));
  const state = [...states].find(([, value]) => value === batch.state)?.[0] ?? 'unknown';
  const color =
    batch.state === BatchState.COMPLETED ? 'green' : batch.state === BatchState.CANCELLED ? 'yellow' : 'cyan';
  const counts = [
    `${settledCount(batch)} of ${batch.messageCount}`,
    ...(batch.duplicateCount > 0 ? [`${batch.duplicateCount} duplicates`] : []),
    ...(batch.refusedCount > 0 ? [paint('yellow', `${batch.refusedCount} refused`)] : []),
    ...recallCounts(batch),
  ];
  const next =
    batch.nextAt !== undefined && timestampDate(batch.nextAt).getTime() > Date.now()
      ? [`next at ${timestampDate(batch.nextAt).toISOString()}`]
      : [];
  const why =
    batch.lastError === undefined ? [] : [paint('yellow', plain(reasonOf(batch.lastError) ?? batch.lastError.message))];
  const made = batch.createdAt === undefined ? '' : timestampDate(batch.createdAt).toISOString();
  await print(
    [
      plain(batch.batchId),
      paint(color, state.padEnd(9)),
      paint('dim', made),
      [...counts, ...next, ...why].join(', '),
      plain(batch.name),
    ].join('  '),
  );
}

/** The progress of a recall, as far as there is one. */
function recallCounts(batch: Batch): string[] {
  const { recallState, recalledCount = 0, recallRefusedCount = 0, recallMissingCount = 0 } = batch;
  if (recallState === undefined) return [];
  return [
    `${recalledCount} recalled${recallState === RecallState.RUNNING ? ' so far' : ''}`,
    ...(recallRefusedCount > 0 ? [paint('yellow', `${recallRefusedCount} too old to recall`)] : []),
    ...(recallMissingCount > 0 ? [paint('yellow', `${recallMissingCount} not to be recalled`)] : []),
  ];
}

/** A parser of batch states, separated by commas. */
export function stateList(text: string): BatchState[] {
  return text.split(',').map((each) => {
    const value = states.get(each.trim().toLowerCase());
    if (value === undefined) throw new InvalidArgumentError(`Expected ${[...states.keys()].join(', ')}.`);
    return value;
  });
}
