/** A piece of a text, in UTF-16 units. */
export interface Span {
  readonly begin: number;
  readonly end: number;
}

/** Pieces of one of a payload's texts. */
export interface TextMatches {
  readonly index: number;
  readonly spans: readonly Span[];
}

/** The texts of a payload, and a way to put them back. */
export interface PayloadTexts {
  readonly values: readonly string[];
  /** The payload with these pieces replaced by `*`, one per character; everything else stays byte for byte. */
  mask(matches: readonly TextMatches[]): Uint8Array;
}

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();

/** What stands for a byte that is no UTF-8. */
const replacement = '\ufffd';

/**
 * What cannot be seen and parts no words: Unicode's default-ignorables (zero-width, soft hyphen, BOM, bidi and variation marks, tags), annotation marks, controls but for white
 * space, and what stands for bytes that are no UTF-8.
 */
const invisible = '\\p{Default_Ignorable_Code_Point}\\ufff9-\\ufffb\\ufffd\\0-\\x08\\x0e-\\x1f\\x7f-\\x84\\x86-\\x9f';
const beginsLikeJson = new RegExp(`^[${invisible}\\s]*[[{"]`, 'u');

/** A text, and by its places the bytes that are no UTF-8. */
interface Decoded {
  readonly text: string;
  readonly strayBytes?: ReadonlyMap<number, number>;
}

/**
 * What there is to read in a payload: the string values of JSON, or all of anything else. Bytes that are no UTF-8 are passed over, as clients do that show
 * the rest. What only begins like JSON is read as a text and as JSON, since a client may be as lenient.
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

/** Bytes of the well-formed sequence that begins here (Unicode, table 3-7); 0: there is none. */
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

/** A text that is put together of copied and of new pieces. */
class Pieces {
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
  const pieces = new Pieces(decoded);
  let from = 0;
  for (const { begin, end } of mergeSpans(spans)) {
    pieces.copy(from, begin);
    pieces.put(asterisks(decoded.text.slice(begin, end)));
    from = end;
  }
  pieces.copy(from, decoded.text.length);
  return pieces.bytes();
}

/** In order, and those that overlap as one. */
function mergeSpans(spans: readonly Span[]): Span[] {
  const all: { begin: number; end: number }[] = [];
  for (const { begin, end } of [...spans].sort((a, b) => a.begin - b.begin)) {
    const last = all.at(-1);
    if (last !== undefined && begin <= last.end) last.end = Math.max(last.end, end);
    else all.push({ begin, end });
  }
  return all;
}

/** One per character. */
function asterisks(text: string): string {
  let count = 0;
  for (const _ of text) count++;
  return '*'.repeat(count);
}

/** A string of JSON, and whether a colon behind it makes it a name. */
const literal = /"(?:[^"\\]|\\.)*"(\s*:)?/gs;

/** The string values of a text, and where they stand, with their quotes. */
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

/** The text is JSON, so that every quote outside of a string begins one. Numbers, order and white space stay: it is never written anew as a whole. */
function jsonTexts(decoded: Decoded): PayloadTexts {
  const { values, positions: places } = findLiterals(decoded.text);
  return {
    values,
    mask(matches) {
      const pieces = new Pieces(decoded);
      let from = 0;
      for (const { index, spans } of [...matches].sort((a, b) => a.index - b.index)) {
        const position = places[index];
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

/** The whole text, and the strings in it. A string of which a part matches is masked whole: where its parts stand in what is no JSON is not sure. */
function malformedJsonTexts(decoded: Decoded): PayloadTexts {
  const { values, positions: places } = findLiterals(decoded.text);
  return {
    values: [decoded.text, ...values],
    mask: (matches) =>
      maskSpans(
        decoded,
        matches.flatMap(({ index, spans }) => {
          const position = places[index - 1];
          return position === undefined ? spans : [{ begin: position.begin + 1, end: position.end - 1 }];
        }),
      ),
  };
}

/** A text as it is compared: without what cannot be seen, NFKC and lower case, with the place in the text that each of its units comes from. */
export interface FoldedText {
  readonly folded: string;
  /** For each unit of `folded`: where in the text the characters that it comes from begin. Undefined: at the same place. */
  readonly origins: readonly number[] | undefined;
  readonly length: number;
}

/** Printable ASCII folds to itself but for case. */
const ascii = /^[\t\n\v\f\r -~]*$/;
const visibleRun = new RegExp(`[^${invisible}]+`, 'gu');
const anyInvisible = new RegExp(`[${invisible}]`, 'u');
/**
 * What may compose with what stands before it: marks, and of Hangul and of half-width kana what is no mark. At most 30 go with one character, as in
 * UAX #15's stream-safe format: the time of NFKC is quadratic in them, 0.6 s for 64 kB of marks.
 */
const trailing =
  '\\p{M}\\u0e33\\u0eb3\\u1161-\\u1175\\u11a8-\\u11c2\\u3133\\u3135\\u3136\\u313a-\\u313f\\u314f-\\u3163\\uff9e\\uff9f\\uffa3\\uffa5\\uffa6\\uffaa-\\uffaf\\uffc2-\\uffdc';
const cluster = new RegExp(`\\P{M}[${trailing}]{0,30}|[${trailing}]{1,30}`, 'gsu');

/** The text without what cannot be seen: patterns are compared with folded text, in which it does not occur. */
export function stripInvisible(text: string): string {
  return anyInvisible.test(text) ? (text.match(visibleRun) ?? []).join('') : text;
}

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
    // A capital sigma is small in two ways, by where it stands.
    const piece = match[0].normalize('NFKC').toLowerCase().replaceAll('ς', 'σ');
    const origin = positions === undefined ? match.index : (positions[match.index] as number);
    pieces.push(piece);
    for (let unit = 0; unit < piece.length; unit++) origins.push(origin);
  }
  return { folded: pieces.join(''), origins, length };
}

/** The pieces of the text that a piece of its folded form comes from: whole characters. */
export function originalSpans({ origins, length }: FoldedText, begin: number, end: number): Span[] {
  if (origins === undefined) return [{ begin, end }];
  const from = origins[begin];
  if (from === undefined) return [];
  // To where the next character begins that is not part of it.
  const last = origins[end - 1];
  let next = end;
  while (next < origins.length && origins[next] === last) next++;
  return [{ begin: from, end: origins[next] ?? length }];
}
