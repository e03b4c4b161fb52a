/**
 * Members whose JSON number had more digits than a double holds, by the object or array that holds
 * them. JSON.parse rounds 0.12345678901234567890 silently, and the value no longer tells.
 */
const lossy = new WeakMap<object, Set<string>>();

/** Returns the members of an object or array whose number lost digits. */
export function lossyOf(parent: object): ReadonlySet<string> | undefined {
  return lossy.get(parent);
}

export function markLossy(parent: object, key: string): void {
  const keys = lossy.get(parent);
  if (keys === undefined) lossy.set(parent, new Set([key]));
  else keys.add(key);
}

/** A double holds 15 digits, wherever the point is; fewer at the ends of its range. */
export const sureDigits = 15;
const sureExponent = 290;

/** Longer texts are treated as lossy: no program writes them, and comparing takes time. */
const longestText = 1000;

/** Whether a number's text differs from the value that it is read as. */
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

/** Returns the significant digits and the power of ten. */
function significant(text: string): [digits: string, power: number] {
  const [mantissa = '', exponent = '0'] = text.toLowerCase().replace(/^-/, '').split('e');
  const [whole = '', fraction = ''] = mantissa.split('.');
  const all = (whole + fraction).replace(/^0+/, '');
  // A loop, because /0+$/ takes quadratic time on inner runs of zeros.
  let end = all.length;
  while (all[end - 1] === '0') end--;
  const digits = all.slice(0, end);
  return [digits, Number(exponent) - fraction.length + (all.length - digits.length)];
}
