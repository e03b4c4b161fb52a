/** Checks of well-known types that protobuf-es skips when it reads their text. */

const timestampText = /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d{1,9})?(?:Z|[+-](\d\d):(\d\d))$/;
const durationText = /^-?\d+(?:\.\d{1,9})?s$/;

/**
 * Whether a time exists. Date.parse, which protobuf-es uses, turns February 29 of a common year
 * into March 1, and T24:00:00 into the next day.
 */
function isRealTime(text: string): boolean {
  const parts = timestampText
    .exec(text)
    ?.slice(1)
    .map((part) => Number(part ?? 0));
  if (parts === undefined) return false;
  const [year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0, offsetHour = 0, offsetMinute = 0] = parts;
  if (month < 1 || month > 12 || day < 1 || day > daysIn(year, month)) return false;
  return hour <= 23 && minute <= 59 && second <= 59 && offsetHour <= 23 && offsetMinute <= 59;
}

function daysIn(year: number, month: number): number {
  if (month === 2) return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0) ? 29 : 28;
  return [4, 6, 9, 11].includes(month) ? 30 : 31;
}

/** Whether a text would be written again unchanged. */
export function isExact(typeName: string, text: unknown): boolean {
  if (typeof text !== 'string') return true;
  if (typeName === 'google.protobuf.Timestamp') return isRealTime(text);
  return typeName !== 'google.protobuf.Duration' || durationText.test(text);
}
