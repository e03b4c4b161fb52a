/** A time in ISO 8601 with an offset, or without one where a time zone is given. */
const form = /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)?$/;

/**
 * Parses a time to milliseconds since 1970. Accepts ISO 8601 and existing dates only: `new Date`
 * reads `2027-02-29T12:00:00Z` as March 1, and `12/10/2026` in US order. Without an offset
 * `timeZone` is required.
 */
export async function parseTime(text: string, timeZone?: string): Promise<number> {
  const local = localTime(text);
  if (local.offset !== undefined) {
    if (timeZone === undefined) return local.utcMs - offsetMs(local.offset);
    throw new Error(`${JSON.stringify(text)} has an offset of its own: remove --time-zone, or the offset`);
  }
  if (timeZone === undefined)
    throw new Error(`${JSON.stringify(text)} has no offset: append Z or +01:00, or set --time-zone Europe/Berlin`);
  return await inZone(text, timeZone);
}

/** Parses a time with its offset to milliseconds since 1970. */
export function parseInstant(text: string): number {
  const { utcMs, offset } = localTime(text);
  if (offset === undefined) throw new Error('Expected a time with its offset, such as 2026-01-31T12:00Z');
  return utcMs - offsetMs(offset);
}

/** Throws if a text is not an RFC 3339 time, or its date does not exist. */
export function assertTime(text: string): void {
  if (localTime(text).offset === undefined)
    throw new Error(`${JSON.stringify(text)} has no offset: append Z, or one such as +01:00`);
}

/** Checked fields of a time: milliseconds as if in UTC, and the written offset. */
function localTime(text: string): { utcMs: number; offset: string | undefined } {
  const match = form.exec(text);
  if (match === null)
    throw new Error(`${JSON.stringify(text)} is not a time such as 2026-12-24T18:00:00+01:00 (ISO 8601, RFC 3339)`);
  const [year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0] = match
    .slice(1, 7)
    .map((each) => Number(each ?? 0));
  const fraction = match[7] ?? '';
  const date = new Date(0);
  date.setUTCFullYear(year, month - 1, day);
  date.setUTCHours(hour, minute, second, Number(fraction.padEnd(3, '0').slice(0, 3)));
  const exists =
    date.getUTCFullYear() === year &&
    date.getUTCMonth() === month - 1 &&
    date.getUTCDate() === day &&
    date.getUTCHours() === hour &&
    date.getUTCMinutes() === minute &&
    date.getUTCSeconds() === second;
  if (!exists) throw new Error(`${JSON.stringify(text)} does not exist: no such date or time of day`);
  return { utcMs: date.getTime(), offset: match[8] };
}

function offsetMs(offset: string): number {
  if (offset === 'Z') return 0;
  const [hours = 0, minutes = 0] = offset.slice(1).split(':').map(Number);
  return (offset.startsWith('-') ? -1 : 1) * (hours * 60 + minutes) * 60_000;
}

/**
 * A local time in a zone. Refuses a time that does not exist there (clocks go forward) or exists
 * twice (clocks go back).
 */
async function inZone(text: string, timeZone: string): Promise<number> {
  const { Temporal } = await import('temporal-polyfill');
  try {
    return Temporal.PlainDateTime.from(text).toZonedDateTime(timeZone, { disambiguation: 'reject' }).epochMilliseconds;
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    const [earlier, later] = (['earlier', 'later'] as const).map((disambiguation) =>
      Temporal.PlainDateTime.from(text)
        .toZonedDateTime(timeZone, { disambiguation })
        .toString({ timeZoneName: 'never' }),
    );
    const isTwice = Temporal.PlainDateTime.from(text)
      .toZonedDateTime(timeZone, { disambiguation: 'earlier' })
      .toPlainDateTime()
      .equals(text);
    throw new Error(
      isTwice
        ? `${text} occurs twice in ${timeZone} (clocks go back): use ${earlier} or ${later}`
        : `${text} does not exist in ${timeZone} (clocks go forward): use ${earlier} or ${later}`,
      { cause: error },
    );
  }
}

/** Describes a time in a zone and in UTC. */
export async function describeTime(ms: number, timeZone: string): Promise<string> {
  const { Temporal } = await import('temporal-polyfill');
  const local = Temporal.Instant.fromEpochMilliseconds(ms).toZonedDateTimeISO(timeZone);
  return `${local.toString({ timeZoneName: 'never' })} (${timeZone}), ${new Date(ms).toISOString()} in UTC`;
}
