// Finds the texts of a payload, normalizes them for comparison, and masks matches in place.
//
// Entry points: `extractTexts` (payload to texts, and back with masks), `foldText` (case, width,
// composition, invisible characters), `originalSpans` (from folded to original positions).
// Invariant: everything that is not masked stays byte for byte, even bytes that are not UTF-8.

/** A piece of a text, in UTF-16 units. */
export interface Span {
  readonly begin: number;
  readonly end: number;
}

/** Matches in one of a payload's texts. */
export interface TextMatches {
  readonly index: number;
  readonly spans: readonly Span[];
}

/** The texts of a payload. */
export interface PayloadTexts {
  readonly values: readonly string[];
  /** Returns the payload with these spans replaced by `*`, one per character. */
  mask(matches: readonly TextMatches[]): Uint8Array;
}

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();

/** Placeholder of a byte that is not UTF-8. */
const replacement = '\ufffd';

/**
 * Invisible characters, which separate no words: Unicode's default ignorables (zero-width, soft
 * hyphen, BOM, bidi and variation marks, tags), annotation marks, controls except white space, and
 * the placeholder.
 */
const invisible = '\\p{Default_Ignorable_Code_Point}\\ufff9-\\ufffb\\ufffd\\0-\\x08\\x0e-\\x1f\\x7f-\\x84\\x86-\\x9f';
const beginsLikeJson = new RegExp(`^[${invisible}\\s]*[[{"]`, 'u');

/** A decoded text. `strayBytes`: bytes that are not UTF-8, by the position of their placeholder. */
interface Decoded {
  readonly text: string;
  readonly strayBytes?: ReadonlyMap<number, number>;
}

/**
 * Extracts the texts of a payload: the string values of JSON, otherwise the whole text. Malformed
 * JSON is read both ways, since a client may parse leniently. Bytes that are not UTF-8 are skipped,
 * as by clients that display the rest.
 */
export function extractTexts(payload: Uint8Array): PayloadTexts {
  const decoded = decode(payload);
  const { text } = decoded;
  if (!beginsLikeJson.test(text)) return wholeText(decoded);
  return isJson(text.replace(/^\ufeff+/, '')) ? jsonTexts(decoded) : malformedJsonTexts(decoded);
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

function decode(payload: Uint8Array): Decoded {
  try {
    return { text: strict.decode(payload) };
  } catch {
    return decodeLeniently(payload);
  }
}

function decodeLeniently(payload: Uint8Array): Decoded {
  const strayBytes = new Map<number, number>();
  let text = '';
  let from = 0;
  for (let at = 0; at < payload.length; ) {
    const size = sequenceBytes(payload, at);
    if (size > 0) {
      at += size;
      continue;
    }
    if (at > from) text += strict.decode(payload.subarray(from, at));
    strayBytes.set(text.length, payload[at] as number);
    text += replacement;
    from = ++at;
  }
  if (from < payload.length) text += strict.decode(payload.subarray(from));
  return { text, strayBytes: strayBytes };
}

/** Length of the well-formed UTF-8 sequence at a position (Unicode, table 3-7); 0: none. */
function sequenceBytes(bytes: Uint8Array, at: number): number {
  const lead = bytes[at] as number;
  if (lead < 0x80) return 1;
  const size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  const low = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
  const high = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
  const second = bytes[at + 1] ?? 0;
  if (second < low || second > high) return 0;
  for (let index = 2; index < size; index++) if (((bytes[at + index] ?? 0) & 0xc0) !== 0x80) return 0;
  return size;
}

/** Builds a payload from copied and new pieces, and restores its stray bytes. */
class PayloadBuilder {
  readonly #from: Decoded;
  #text = '';
  readonly #stray = new Map<number, number>();

  constructor(from: Decoded) {
    this.#from = from;
  }

  copy(begin: number, end: number): void {
    if (this.#from.strayBytes !== undefined)
      for (const [position, byte] of this.#from.strayBytes)
        if (position >= begin && position < end) this.#stray.set(this.#text.length + position - begin, byte);
    this.#text += this.#from.text.slice(begin, end);
  }

  put(text: string): void {
    this.#text += text;
  }

  bytes(): Uint8Array {
    if (this.#stray.size === 0) return encoder.encode(this.#text);
    const parts: Uint8Array[] = [];
    let from = 0;
    for (const [position, byte] of this.#stray) {
      parts.push(encoder.encode(this.#text.slice(from, position)), Uint8Array.of(byte));
      from = position + 1;
    }
    parts.push(encoder.encode(this.#text.slice(from)));
    return Buffer.concat(parts);
  }
}

function wholeText(decoded: Decoded): PayloadTexts {
  return {
    values: [decoded.text],
    mask: (matches) =>
      maskSpans(
        decoded,
        matches.flatMap((each) => each.spans),
      ),
  };
}

function maskSpans(decoded: Decoded, spans: readonly Span[]): Uint8Array {
  const pieces = new PayloadBuilder(decoded);
  let from = 0;
  for (const { begin, end } of mergeSpans(spans)) {
    pieces.copy(from, begin);
    pieces.put(asterisks(decoded.text.slice(begin, end)));
    from = end;
  }
  pieces.copy(from, decoded.text.length);
  return pieces.bytes();
}

/** Sorts spans and merges overlapping ones. */
function mergeSpans(spans: readonly Span[]): Span[] {
  const all: { begin: number; end: number }[] = [];
  for (const { begin, end } of [...spans].sort((a, b) => a.begin - b.begin)) {
    const last = all.at(-1);
    if (last !== undefined && begin <= last.end) last.end = Math.max(last.end, end);
    else all.push({ begin, end });
  }
  return all;
}

/** One asterisk per character. */
function asterisks(text: string): string {
  let count = 0;
  for (const _ of text) count++;
  return '*'.repeat(count);
}

/** A JSON string, with the colon if it is a member name. */
const literal = /"(?:[^"\\]|\\.)*"(\s*:)?/gs;

/** Finds the string values of a text and their positions, including quotes. */
function findLiterals(text: string): { values: string[]; positions: Span[] } {
  const values: string[] = [];
  const positions: Span[] = [];
  for (const match of text.matchAll(literal)) {
    if (match[1] !== undefined) continue;
    const value = parseString(match[0]);
    if (value === undefined) continue;
    values.push(value);
    positions.push({ begin: match.index, end: match.index + match[0].length });
  }
  return { values, positions: positions };
}

function parseString(json: string): string | undefined {
  try {
    return JSON.parse(json) as string;
  } catch {
    return undefined;
  }
}

/**
 * Texts of valid JSON, where every quote outside of a string begins one. Only masked strings are
 * rewritten, so numbers, order and white space stay.
 */
function jsonTexts(decoded: Decoded): PayloadTexts {
  const { values, positions } = findLiterals(decoded.text);
  return {
    values,
    mask(matches) {
      const pieces = new PayloadBuilder(decoded);
      let from = 0;
      for (const { index, spans } of [...matches].sort((a, b) => a.index - b.index)) {
        const position = positions[index];
        const value = values[index];
        if (position === undefined || value === undefined) continue;
        pieces.copy(from, position.begin);
        pieces.put(JSON.stringify(maskString(value, spans)));
        from = position.end;
      }
      pieces.copy(from, decoded.text.length);
      return pieces.bytes();
    },
  };
}

function maskString(value: string, spans: readonly Span[]): string {
  let text = '';
  let from = 0;
  for (const { begin, end } of mergeSpans(spans)) {
    text += value.slice(from, begin) + asterisks(value.slice(begin, end));
    from = end;
  }
  return text + value.slice(from);
}

/**
 * The whole text, and the strings in it. A string with a match is masked as a whole, since
 * positions within malformed JSON are uncertain.
 */
function malformedJsonTexts(decoded: Decoded): PayloadTexts {
  const { values, positions } = findLiterals(decoded.text);
  return {
    values: [decoded.text, ...values],
    mask: (matches) =>
      maskSpans(
        decoded,
        matches.flatMap(({ index, spans }) => {
          const position = positions[index - 1];
          return position === undefined ? spans : [{ begin: position.begin + 1, end: position.end - 1 }];
        }),
      ),
  };
}

/** A text in its form for comparison: without invisible characters, NFKC, lower case. */
export interface FoldedText {
  readonly folded: string;
  /**
   * Per unit of `folded`: the position in the text of the characters it comes from. Unset: the same
   * position.
   */
  readonly origins: readonly number[] | undefined;
  readonly length: number;
}

/** Printable ASCII, which changes only in case. */
const ascii = /^[\t\n\v\f\r -~]*$/;
const visibleRun = new RegExp(`[^${invisible}]+`, 'gu');
const anyInvisible = new RegExp(`[${invisible}]`, 'u');
/**
 * Characters that may compose with the preceding one: marks, and parts of Hangul and half-width
 * kana. At most 30 follow one character (UAX #15, stream-safe format): NFKC takes quadratic time in
 * them, 0.6 s for 64 kB.
 */
const trailing =
  '\\p{M}\\u0e33\\u0eb3\\u1161-\\u1175\\u11a8-\\u11c2\\u3133\\u3135\\u3136\\u313a-\\u313f\\u314f-\\u3163\\uff9e\\uff9f\\uffa3\\uffa5\\uffa6\\uffaa-\\uffaf\\uffc2-\\uffdc';
const cluster = new RegExp(`\\P{M}[${trailing}]{0,30}|[${trailing}]{1,30}`, 'gsu');

/** Removes invisible characters. Patterns match folded text, which has none. */
export function stripInvisible(text: string): string {
  return anyInvisible.test(text) ? (text.match(visibleRun) ?? []).join('') : text;
}

/** Folds a text for comparison. */
export function foldText(text: string): FoldedText {
  const { length } = text;
  if (ascii.test(text)) return { folded: text.toLowerCase(), origins: undefined, length };
  let visible = text;
  let positions: number[] | undefined;
  if (anyInvisible.test(text)) {
    visible = '';
    positions = [];
    for (const run of text.matchAll(visibleRun)) {
      visible += run[0];
      for (let unit = 0; unit < run[0].length; unit++) positions.push(run.index + unit);
    }
    if (ascii.test(visible)) return { folded: visible.toLowerCase(), origins: positions, length };
  }
  const pieces: string[] = [];
  const origins: number[] = [];
  for (const match of visible.matchAll(cluster)) {
    // Both lower-case forms of sigma compare equal.
    const piece = match[0].normalize('NFKC').toLowerCase().replaceAll('ς', 'σ');
    const origin = positions === undefined ? match.index : (positions[match.index] as number);
    pieces.push(piece);
    for (let unit = 0; unit < piece.length; unit++) origins.push(origin);
  }
  return { folded: pieces.join(''), origins, length };
}

/**
 * The spans of the original text, in whole characters, that a span of the folded text comes from.
 */
export function originalSpans({ origins, length }: FoldedText, begin: number, end: number): Span[] {
  if (origins === undefined) return [{ begin, end }];
  const from = origins[begin];
  if (from === undefined) return [];
  // Ends where the next character begins.
  const last = origins[end - 1];
  let next = end;
  while (next < origins.length && origins[next] === last) next++;
  return [{ begin: from, end: origins[next] ?? length }];
}
