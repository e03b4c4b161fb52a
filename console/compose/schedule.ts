import { parseTime } from '../../src/message-files/time.ts';

/** A chosen time, or why it cannot be used. */
export type Schedule =
  | { readonly kind: 'now' }
  | { readonly kind: 'time'; readonly ms: number }
  | { readonly kind: 'wrong'; readonly why: 'needTime' | 'past' | 'tooFar' }
  | { readonly kind: 'gap' }
  /** Times of day and dates in UTC: they may differ from the local date. */
  | { readonly kind: 'twice'; readonly before: string; readonly after: string; readonly dates: string };

const maxAheadMs = 366 * 24 * 3_600_000;

/**
 * A local time of an `<input type="datetime-local">` in a zone. Clock changes are refused as on the
 * command line: such a time does not exist or exists twice.
 */
export async function scheduleOf(local: string, zone: string, now: number): Promise<Schedule> {
  if (local === '') return { kind: 'wrong', why: 'needTime' };
  let ms: number;
  try {
    ms = await parseTime(local, zone);
  } catch (error) {
    const text = error instanceof Error ? error.message : '';
    if (text.includes('clocks go forward')) return { kind: 'gap' };
    const [, before = '', after = ''] = /use (\S+) or (\S+)$/.exec(text) ?? [];
    if (before === '') return { kind: 'wrong', why: 'needTime' };
    const [clocks, dates] = [
      [before, after].map((each) => utcOf(each, 11, 16)),
      [before, after].map((each) => utcOf(each, 0, 10)),
    ];
    return { kind: 'twice', before: clocks[0] ?? '', after: clocks[1] ?? '', dates: [...new Set(dates)].join(', ') };
  }
  if (ms <= now) return { kind: 'wrong', why: 'past' };
  return ms > now + maxAheadMs ? { kind: 'wrong', why: 'tooFar' } : { kind: 'time', ms };
}

function utcOf(text: string, from: number, to: number): string {
  return new Date(text).toISOString().slice(from, to);
}

/** A time in several zones, each named once. */
export function inZones(ms: number, zones: readonly string[], locale: string): string {
  return [...new Set(zones)]
    .map((timeZone) => {
      const text = new Intl.DateTimeFormat(locale, { dateStyle: 'medium', timeStyle: 'short', timeZone }).format(ms);
      return `${text} (${timeZone})`;
    })
    .join(' · ');
}
