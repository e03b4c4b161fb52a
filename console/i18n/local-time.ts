/**
 * The moments, in ms since 1970, that a clock in the zone shows as this local time
 * (`2027-01-31T09:00`): one, none where clocks go forward over it, two where they go back.
 */
export function momentsOf(localTime: string, timeZone: string): number[] {
  const asUtc = Date.parse(`${localTime}Z`);
  if (Number.isNaN(asUtc)) return [];
  // An offset is at most a day, so the offsets of both sides of any change are among these.
  const offsets = new Set([-86_400_000, 0, 86_400_000].map((shift) => offsetAt(asUtc + shift, timeZone)));
  return [...offsets]
    .map((offset) => asUtc - offset)
    .filter((moment) => moment + offsetAt(moment, timeZone) === asUtc)
    .sort((a, b) => a - b);
}

/** The local time of a moment in the form of `<input type="datetime-local">`. */
export function localTimeOf(ms: number, timeZone: string): string {
  return new Date(ms + offsetAt(ms, timeZone)).toISOString().slice(0, 16);
}

/** How far the zone's clocks are ahead of UTC, in ms. */
function offsetAt(ms: number, timeZone: string): number {
  const parts = new Intl.DateTimeFormat('en-US', {
    timeZone,
    hourCycle: 'h23',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
    second: 'numeric',
  }).formatToParts(ms);
  const of = (type: Intl.DateTimeFormatPartTypes) => Number(parts.find((part) => part.type === type)?.value);
  const local = Date.UTC(of('year'), of('month') - 1, of('day'), of('hour'), of('minute'), of('second'));
  return local - Math.floor(ms / 1000) * 1000;
}
