/**
 * What each pattern of the contract requires, in words. Protovalidate's own text names neither the
 * limit nor a way out.
 */
const patterns: Readonly<Record<string, string>> = {
  '^[^#&]*$': 'must not contain # or &',
  '^[^@#&]*$': 'must not contain @, # or &',
  '^[A-Za-z0-9._-]{1,128}$': 'must be 1 to 128 letters, digits, ".", "_" or "-"',
  '^[A-Za-z0-9._-]{0,128}$': 'must be at most 128 letters, digits, ".", "_" or "-"',
  '^[a-z0-9]{16}$': 'must be 16 lower-case letters and digits',
  '^(whsec_[A-Za-z0-9+/]{32,86}={0,2})?$':
    'must be whsec_ and 24 to 64 bytes in base64, or empty to have one generated',
};
const pageToken = 'must be the next_page_token of the previous page, unchanged, or empty';

/** A value of an enum: its short name and its number. */
export interface EnumValue {
  readonly name: string;
  readonly number: number;
}

/** A broken rule of the contract, as protovalidate reports it. */
export interface BrokenRule {
  /** `string.max_bytes`, `enum.defined_only`, … */
  readonly id: string;
  /** Protovalidate's own text. */
  readonly ownText: string;
  /** The values of the field when it is an enum. */
  readonly values?: readonly EnumValue[];
  /** The value's length, if the rule limits the length. */
  readonly actual?: number;
}

/** Says what the field must be. */
export function violationMessage({ id, ownText: said, values = [], actual }: BrokenRule): string {
  const kind = id.slice(id.indexOf('.') + 1);
  const not = actual === undefined ? '' : `, not ${actual}`;
  switch (kind) {
    case 'pattern':
      return patternText(said);
    case 'defined_only':
      return `must be one of ${values.map(({ name, number }) => `${number} (${name})`).join(', ')}`;
    case 'not_in':
      return values.length === 0 ? said : 'is required';
    case 'in':
      return said.replace('must be in list', 'must be one of');
    case 'not_contains':
      return said.includes('\u0000') ? 'must not contain the character NUL (U+0000)' : said;
    case 'unique':
      return 'must not repeat a value';
    case 'min_bytes':
    case 'min_len':
      return /\b1 (byte|char)/.test(said) ? 'is required and must not be empty' : said;
    case 'min_items':
      return /\b1 item/.test(said) ? 'must have at least one entry' : said;
    case 'max_items':
      return `must have at most ${/\d+/.exec(said)?.[0]} entries${not}`;
    case 'max_bytes':
    case 'max_len':
      return `${said}${not}`;
    default:
      return said;
  }
}

function patternText(ownText: string): string {
  const pattern = /`(.*)`$/s.exec(ownText)?.[1] ?? '';
  if (Object.hasOwn(patterns, pattern)) return patterns[pattern] as string;
  return /^\^\(?\[0-9\]\{/.test(pattern) ? pageToken : ownText;
}
