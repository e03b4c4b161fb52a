import { timestampMs } from '@bufbuild/protobuf/wkt';
import { type Batch, BatchState, RecallState } from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
import type { Tone } from '../ui/tone.ts';

export type StateName = 'queued' | 'running' | 'cancelling' | 'completed' | 'cancelled';

const names: Readonly<Record<number, StateName>> = {
  [BatchState.QUEUED]: 'queued',
  [BatchState.RUNNING]: 'running',
  [BatchState.CANCELLING]: 'cancelling',
  [BatchState.COMPLETED]: 'completed',
  [BatchState.CANCELLED]: 'cancelled',
};

export const unfinishedStates = [BatchState.QUEUED, BatchState.RUNNING, BatchState.CANCELLING];

/** The filters of the list, by their name in the address. */
export const stateFilters: Readonly<Record<string, readonly BatchState[]>> = {
  all: [],
  unfinished: unfinishedStates,
  queued: [BatchState.QUEUED],
  running: [BatchState.RUNNING],
  completed: [BatchState.COMPLETED],
  cancelled: [BatchState.CANCELLED],
};

export function stateName({ state }: Batch): StateName {
  return names[state] ?? 'queued';
}

export function stateTone(batch: Batch): Tone {
  switch (stateName(batch)) {
    case 'queued':
      return 'neutral';
    case 'running':
      return 'info';
    case 'cancelling':
    case 'cancelled':
      return 'warning';
    case 'completed':
      return batch.refusedCount > 0 ? 'warning' : 'success';
  }
}

/** Messages that have a result. */
export function doneCount({ acceptedCount, duplicateCount, refusedCount }: Batch): number {
  return acceptedCount + duplicateCount + refusedCount;
}

export function leftCount(batch: Batch): number {
  return batch.messageCount - doneCount(batch);
}

export function hasEnded({ endedAt }: Batch): boolean {
  return endedAt !== undefined;
}

/** Whether nothing of it changes any more by itself: it has ended, and so has its recall. */
export function isSettled(batch: Batch): boolean {
  return hasEnded(batch) && batch.recallState !== RecallState.RUNNING;
}

/** Whether it waits for its time. */
export function isScheduled(batch: Batch, now: number): boolean {
  return stateName(batch) === 'queued' && batch.nextAt !== undefined && timestampMs(batch.nextAt) > now;
}

/** A count of done messages at a moment. */
interface Sample {
  readonly at: number;
  readonly done: number;
}

/** How fast a batch proceeds. */
export interface Pace {
  readonly perSecond: number;
  /** Milliseconds until its end; undefined when it does not proceed. */
  readonly leftMs: number | undefined;
}

const windowMs = 15_000;

/** Measures batches by what was done between observations of the last 15 seconds. */
export function createPaceMeter(): (batch: Batch, now: number) => Pace | undefined {
  const samples = new Map<string, Sample[]>();
  return (batch, now) => {
    if (hasEnded(batch)) {
      samples.delete(batch.batchId);
      return undefined;
    }
    const known = samples.get(batch.batchId) ?? [];
    const last = known.at(-1);
    if (last === undefined || now > last.at) known.push({ at: now, done: doneCount(batch) });
    while (known.length > 2 && (known[0]?.at ?? now) < now - windowMs) known.shift();
    samples.set(batch.batchId, known);
    const first = known[0];
    if (first === undefined || now - first.at < 500) return paceSinceStart(batch, now);
    const perSecond = ((doneCount(batch) - first.done) * 1000) / (now - first.at);
    return paceOf(batch, perSecond);
  };
}

/** Before there are two observations: the mean since the start. */
function paceSinceStart(batch: Batch, now: number): Pace | undefined {
  if (batch.startedAt === undefined || stateName(batch) !== 'running') return undefined;
  const ms = now - timestampMs(batch.startedAt);
  return ms <= 0 ? undefined : paceOf(batch, (doneCount(batch) * 1000) / ms);
}

function paceOf(batch: Batch, perSecond: number): Pace {
  return { perSecond, leftMs: perSecond > 0 ? (leftCount(batch) / perSecond) * 1000 : undefined };
}
