/**
 * Numbers of JSON whose text has more than a double keeps: JSON.parse rounds 0.12345678901234567890 in silence. By the object or array that holds them, since the
 * value does not tell.
 */
const lossy = new WeakMap<object, Set<string>>();

/** The members of an object or an array whose text was a number that lost digits. */
export function lossyOf(parent: object): ReadonlySet<string> | undefined {
  return lossy.get(parent);
}

export function markLossy(parent: object, key: string): void {
  const keys = lossy.get(parent);
  if (keys === undefined) lossy.set(parent, new Set([key]));
  else keys.add(key);
}

/** A double keeps 15 digits, wherever the point is; at its ends fewer. */
export const sureDigits = 15;
const sureExponent = 290;

/** Longer texts are no number that a program wrote, and take time to compare. */
const longestText = 1000;

/** Whether a number's text and the number that it is read as differ. */
export function losesDigits(text: string): boolean {
  if (text.length > longestText) return true;
  const exponent = /[eE]/.test(text);
  if (!exponent && text.length <= sureDigits) return false;
  const [digits, power] = significant(text);
  if (digits.length <= sureDigits && Math.abs(power) < sureExponent) return false;
  const value = Number(text);
  if (!Number.isFinite(value)) return true;
  const [kept, keptPower] = significant(String(value));
  return kept !== digits || (digits !== '' && keptPower !== power);
}

/** The digits that count, and the power of ten that they are times of. */
function significant(text: string): [digits: string, power: number] {
  const [mantissa = '', exponent = '0'] = text.toLowerCase().replace(/^-/, '').split('e');
  const [whole = '', fraction = ''] = mantissa.split('.');
  const all = (whole + fraction).replace(/^0+/, '');
  // By hand: /0+$/ takes the square of a run of zeros that is not the end.
  let end = all.length;
  while (all[end - 1] === '0') end--;
  const digits = all.slice(0, end);
  return [digits, Number(exponent) - fraction.length + (all.length - digits.length)];
}
