/** A cell whose text is not what was entered. */
export interface BadCell {
  readonly code: 'longNumber' | 'cellError' | 'noValue';
  readonly value: string;
}

/** `formatValue` of hucre: a number in a format of Excel. */
export type FormatValue = (value: unknown, format: string) => string;

/** Formats that a file names by their number only (ECMA-376 part 1, 18.8.30). */
const builtIn: Readonly<Record<number, string>> = {
  1: '0',
  2: '0.00',
  3: '#,##0',
  4: '#,##0.00',
  5: '#,##0',
  6: '#,##0',
  7: '#,##0.00',
  8: '#,##0.00',
  9: '0%',
  10: '0.00%',
  12: '# ?/?',
  13: '# ??/??',
  14: 'yyyy-mm-dd',
  15: 'yyyy-mm-dd',
  16: 'yyyy-mm-dd',
  17: 'yyyy-mm-dd',
  18: 'h:mm',
  19: 'h:mm:ss',
  20: 'h:mm',
  21: 'h:mm:ss',
  22: 'yyyy-mm-dd h:mm',
  37: '#,##0',
  38: '#,##0',
  39: '#,##0.00',
  40: '#,##0.00',
  45: 'mm:ss',
  46: '[h]:mm:ss',
  47: 'mm:ss',
};
/** Dates of East Asian versions; those of 32 to 35, 55 and 56 are times. */
const [eastAsian, eastAsianTimes] = [
  [27, 28, 29, 30, 31, 36, 50, 51, 52, 53, 54, 57, 58],
  [32, 33, 34, 35, 55, 56],
];

export function builtInFormat(id: number): string | undefined {
  if (eastAsian?.includes(id)) return 'yyyy-mm-dd';
  return eastAsianTimes?.includes(id) ? 'h:mm:ss' : builtIn[id];
}

/** Digits that Excel keeps; it replaces further ones by zeros. */
const exactNumbers = 1e15;
/** 9999-12-31, the last date of Excel. */
const lastSerial = 2_958_466;

/**
 * The text of a number: dates in ISO 8601, otherwise as Excel shows it, except that no digit of a
 * number without a format of its own is hidden. `is1904`: how the workbook counts days.
 */
export function numberText(
  value: number,
  format: string | undefined,
  { is1904, formatValue }: { readonly is1904: boolean; readonly formatValue: FormatValue },
): string | BadCell {
  const kind = format === undefined ? 'number' : kindOfFormat(format);
  if (kind === 'date' || kind === 'time') return momentText(value, kind, is1904);
  if (Math.abs(value) >= exactNumbers) return { code: 'longNumber', value: digitsOf(value) };
  // Scientific notation hides digits.
  if (format === undefined || /general|@|E[+-]/i.test(format)) return digitsOf(value);
  return formatValue(value, withCurrency(format)).trim();
}

/** What a format shows; `duration` may exceed a day. */
function kindOfFormat(format: string): 'number' | 'date' | 'time' | 'duration' {
  const [section = ''] = format.split(';', 1);
  if (/\[(h+|m+|s+)\]/i.test(section)) return 'duration';
  const letters = section.replace(/\[[^\]]*\]|"[^"]*"|\\.|[_*]./g, '');
  if (/general/i.test(letters)) return 'number';
  const hasTime = /[hs]|am\/pm/i.test(letters);
  // With hours or seconds an m is minutes.
  if (/[yde]/i.test(letters.replace(/E[+-]/gi, ''))) return 'date';
  if (hasTime) return 'time';
  return /m/i.test(letters) ? 'date' : 'number';
}

/** The sign of a currency: `[$¥-804]` shows ¥. */
function withCurrency(format: string): string {
  return format.replace(/\[\$([^\]-]*)(?:-[^\]]*)?\]/g, (_, sign: string) => (sign === '' ? '' : `"${sign}"`));
}

/** A number without exponent, with the 15 digits that Excel keeps. */
function digitsOf(value: number): string {
  return Number(value.toPrecision(15)).toLocaleString('en', { useGrouping: false, maximumFractionDigits: 20 });
}

/** A day count of Excel as date, time of day, or both, to the second. */
function momentText(serial: number, kind: 'date' | 'time', is1904: boolean): string | BadCell {
  // Excel shows signs instead.
  if (serial < 0 || serial >= lastSerial) return { code: 'cellError', value: '#####' };
  let seconds = Math.round(serial * 86_400);
  let days = Math.floor(seconds / 86_400);
  seconds -= days * 86_400;
  const clock = new Date(seconds * 1000).toISOString().slice(11, 19).replace(/:00$/, '');
  if (kind === 'time' || (days === 0 && !is1904)) return clock;
  // Excel has a February 29 in 1900, as Lotus 1-2-3 had.
  if (!is1904 && days === 60) return seconds === 0 ? '1900-02-29' : `1900-02-29T${clock}`;
  if (!is1904 && days > 60) days--;
  const day = new Date(Date.UTC(is1904 ? 1904 : 1899, is1904 ? 0 : 11, is1904 ? 1 : 31) + days * 86_400_000);
  const date = day.toISOString().slice(0, 10);
  return seconds === 0 ? date : `${date}T${clock}`;
}
