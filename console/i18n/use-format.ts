import { type Timestamp, timestampMs } from '@bufbuild/protobuf/wkt';
import { useMemo } from 'react';
import { usePreferences, useTimeZone } from './preferences.ts';

export interface Format {
  /** 12,345 */
  number(value: number | bigint): string;
  /** 12.5%, of a share from 0 to 1. */
  percent(share: number): string;
  /** 1.5 MB */
  bytes(count: number): string;
  /** 850 ms, 12 s, 3 min, 2 h */
  duration(ms: number): string;
  /** Date and time in the time zone of the preferences, to the second. */
  time(value: Timestamp | Date | number): string;
  /** The time of day, to the minute. */
  clock(value: Timestamp | Date | number): string;
  /** As `time`, with the milliseconds and the name of the zone. */
  exactTime(value: Timestamp | Date | number): string;
  /** A moment in UTC, beside a local time. */
  inUtc(value: Timestamp | Date | number): string;
  /** "in 5 minutes", "2 hours ago" */
  relative(value: Timestamp | Date | number, now?: number): string;
}

export function msOf(value: Timestamp | Date | number): number {
  if (typeof value === 'number') return value;
  return value instanceof Date ? value.getTime() : timestampMs(value);
}

const units = [
  ['day', 86_400_000],
  ['hour', 3_600_000],
  ['minute', 60_000],
  ['second', 1_000],
] as const;
const byteUnits = ['B', 'kB', 'MB', 'GB'];

export function createFormat(locale: string, timeZone: string): Format {
  const number = new Intl.NumberFormat(locale);
  const percent = new Intl.NumberFormat(locale, { style: 'percent', maximumFractionDigits: 1 });
  const date = { year: 'numeric', month: 'short', day: 'numeric' } as const;
  const clock = { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' } as const;
  const time = new Intl.DateTimeFormat(locale, { ...date, ...clock, timeZone });
  const exactTime = new Intl.DateTimeFormat(locale, {
    ...date,
    ...clock,
    fractionalSecondDigits: 3,
    timeZoneName: 'short',
    timeZone,
  });
  const utc = new Intl.DateTimeFormat(locale, { ...date, ...clock, timeZone: 'UTC' });
  const minutes = new Intl.DateTimeFormat(locale, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23', timeZone });
  const relative = new Intl.RelativeTimeFormat(locale, { numeric: 'auto' });
  const inUnit = (value: number, unit: string, digits: number) =>
    new Intl.NumberFormat(locale, {
      style: 'unit',
      unit,
      unitDisplay: 'short',
      maximumFractionDigits: digits,
    }).format(value);
  return {
    number: (value) => number.format(value),
    percent: (share) => percent.format(share),
    bytes(count) {
      const power = Math.min(byteUnits.length - 1, Math.floor(Math.log(Math.max(count, 1)) / Math.log(1000)));
      const value = count / 1000 ** power;
      return `${number.format(value < 10 && power > 0 ? Number(value.toFixed(1)) : Math.round(value))} ${byteUnits[power]}`;
    },
    duration(ms) {
      const [unit, size] = units.find(([, each]) => ms >= each) ?? ['millisecond', 1];
      return inUnit(ms / size, unit, ms / size < 10 && unit !== 'millisecond' ? 1 : 0);
    },
    time: (value) => time.format(msOf(value)),
    clock: (value) => minutes.format(msOf(value)),
    exactTime: (value) => exactTime.format(msOf(value)),
    inUtc: (value) => `${utc.format(msOf(value))} UTC`,
    relative(value, now = Date.now()) {
      const ms = msOf(value) - now;
      const [unit, size] = units.find(([, each]) => Math.abs(ms) >= each) ?? ['second', 1_000];
      return relative.format(Math.round(ms / size), unit);
    },
  };
}

/** Numbers, sizes and times in the user's language and time zone. */
export function useFormat(): Format {
  const { language } = usePreferences();
  const timeZone = useTimeZone();
  return useMemo(() => createFormat(language === 'zh' ? 'zh-CN' : 'en-GB', timeZone), [language, timeZone]);
}
