/**
 * Problems of a file or a row, as codes that the page words in the reader's language.
 *
 * The readers shared with the command line report English sentences. `problemOf` recognizes them;
 * a sentence it does not know is shown as it is.
 */
export interface Problem {
  readonly code: ProblemCode;
  /** Values for the words, such as a line or a column. */
  readonly values?: Readonly<Record<string, string | number>>;
}

export type ProblemCode =
  | 'badQuote'
  | 'openQuote'
  | 'wrongColumns'
  | 'rowTooLong'
  | 'badBytes'
  | 'notJson'
  | 'notObject'
  | 'twice'
  | 'inexact'
  | 'notNumber'
  | 'badChannelType'
  | 'badTime'
  | 'noOffset'
  | 'notBase64'
  | 'longNumber'
  | 'cellError'
  | 'noValue'
  | 'binary'
  | 'damaged'
  | 'encrypted'
  | 'tooBig'
  | 'empty'
  | 'tooManyColumns'
  | 'noRows'
  | 'json'
  | 'markup'
  | 'required'
  | 'missing'
  | 'tooLarge'
  | 'template'
  | 'refused'
  | 'connectionLost'
  | 'worker'
  | 'other';

/** A file that cannot be read. */
export class FileProblem extends Error {
  readonly problem: Problem;
  constructor(code: ProblemCode, values?: Problem['values']) {
    super(code);
    this.problem = values === undefined ? { code } : { code, values };
  }
}

/** Sentences of the shared readers, and the names of their groups. */
const sentences: readonly (readonly [RegExp, ProblemCode])[] = [
  [/^quote in an unquoted cell/, 'badQuote'],
  [/^the quote opened here is (never closed|closed before)/, 'openQuote'],
  [/follow the quote opened here/, 'openQuote'],
  [/^expected (?<expected>\d+) columns, got (?<actual>\d+)$/, 'wrongColumns'],
  [/^the (row|line) is longer than/, 'rowTooLong'],
  [/^byte (?<byte>\d+) \(0x(?<hex>[0-9A-F]{2}).*is not valid (?<encoding>[\w-]+)/, 'badBytes'],
  [/JSON at position|Unexpected (token|end|non-whitespace)|Expected .* in JSON|Unterminated/, 'notJson'],
  [/^a line must be a JSON object$/, 'notObject'],
  [/^(?<field>.+) occurs twice$/, 'twice'],
  [/^(?:(?<field>.+): )?(?<value>\S+) is above 2\^53-1/, 'inexact'],
  [/^(?<field>\w+) must be a whole number, not (?<value>.+)$/, 'notNumber'],
  [/^channel_type must be .*, not (?<value>".*")$/, 'badChannelType'],
  [/^send_at: (?<value>".*") has no offset/, 'noOffset'],
  [/^send_at: (?<value>".*") (is not a time|does not exist)/, 'badTime'],
  [/^payload is not base64$|^payload: .*base64/, 'notBase64'],
];

/** The problem that a sentence of the shared readers describes. */
export function problemOf(sentence: string): Problem {
  for (const [pattern, code] of sentences) {
    const match = pattern.exec(sentence);
    if (match !== null) return match.groups === undefined ? { code } : { code, values: plain(match.groups) };
  }
  return { code: 'other', values: { text: sentence } };
}

function plain(groups: Readonly<Record<string, string | undefined>>): Record<string, string> {
  return Object.fromEntries(Object.entries(groups).filter((each): each is [string, string] => each[1] !== undefined));
}
