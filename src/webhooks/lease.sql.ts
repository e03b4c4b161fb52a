import { sql } from 'kysely';
import type { ChangeKind } from '../messages/message.ts';
import type { PlannedDelivery, SeqRange } from './webhook.ts';

/** A claim of a lane. Each claim has a new token (fencing), so an expired lease changes nothing. */
export interface Lease {
  readonly webhookKey: number;
  readonly lane: number;
  readonly token: string;
}

/** SQL condition: the row is the lane of this lease, and the lease is held. */
export const holdsLease = ({ webhookKey, lane, token }: Lease) =>
  sql`webhook_key = ${webhookKey} and lane = ${lane} and token = ${token}::uuid`;

/** A range as stored in JSON: channel key, first and last sequence. */
export type RangeRow = readonly [number, number, number];

/** Ranges of changes as stored in JSON: their numbers. */
export interface ChangesRow {
  readonly kind: ChangeKind;
  readonly ranges: RangeRow[];
}

export const toRange = ([channelKey, firstSeq, lastSeq]: RangeRow): SeqRange => ({ channelKey, firstSeq, lastSeq });

/** What a lane or a parked delivery has recorded. */
export function plannedOf({
  ranges,
  changes,
}: {
  readonly ranges: RangeRow[] | null;
  readonly changes: ChangesRow | null;
}): PlannedDelivery | undefined {
  if (changes !== null) return { kind: changes.kind, ranges: changes.ranges.map(toRange) };
  return ranges === null ? undefined : { kind: 'stored', ranges: ranges.map(toRange) };
}
