import type { Timestamp } from '@bufbuild/protobuf/wkt';
import { invalidField } from '../messages/service-error.ts';

/** The years 1 to 9999, in seconds since 1970. */
const firstSecond = -62_135_596_800n;
const lastSecond = 253_402_300_799n;

/** The last millisecond that a timestamp can have: rounding up must not lead to the year 10000. */
export const lastMs = Number(lastSecond) * 1000 + 999;

/**
 * Converts a timestamp to milliseconds, rounding up. Protobuf can encode times that do not exist;
 * those are refused.
 */
export function timestampMs(field: string, time: Timestamp): number {
  const { seconds, nanos } = time;
  if (seconds < firstSecond || seconds > lastSecond || nanos < 0 || nanos > 999_999_999)
    throw invalidField(field, 'must be a valid time: the years 1 to 9999, with nanos from 0 to 999999999');
  return Math.min(Number(seconds) * 1000 + Math.ceil(nanos / 1e6), lastMs);
}
