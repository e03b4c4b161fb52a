/** A piece of a text, in UTF-16 units. */
export interface Span {
  readonly begin: number;
  readonly end: number;
}

/** Pieces of one of a payload's texts. */
export interface Found {
  readonly index: number;
  readonly spans: readonly Span[];
}

/** The texts of a payload, and a way to put them back. */
export interface PayloadTexts {
  readonly values: readonly string[];
  /** The payload with these pieces replaced by `*`, one a character; everything else stays byte for byte. */
  masked(found: readonly Found[]): Uint8Array;
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();

/** What there is to read in a payload: the string values of JSON, or all of any other UTF-8; undefined when it is neither. */
export function textsOf(payload: Uint8Array): PayloadTexts | undefined {
  let text: string;
  try {
    text = utf8.decode(payload);
  } catch {
    return undefined;
  }
  return (
    (isJson(text) ? literalsOf(text) : undefined) ?? {
      values: [text],
      masked: ([found]) => encoder.encode(found ? mask(text, found.spans) : text),
    }
  );
}

function isJson(text: string): boolean {
  if (!/^\s*[[{"]/.test(text)) return false;
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** A string of JSON, and whether a colon behind it makes it a name. */
const literal = /"(?:[^"\\]|\\.)*"(\s*:)?/g;

/** The text is JSON, so that every quote outside of a string begins one. Numbers, order and white space stay: it is never written anew as a whole. */
function literalsOf(text: string): PayloadTexts {
  const values: string[] = [];
  const places: Span[] = [];
  for (const match of text.matchAll(literal)) {
    if (match[1] !== undefined) continue;
    values.push(JSON.parse(match[0]) as string);
    places.push({ begin: match.index, end: match.index + match[0].length });
  }
  return {
    values,
    masked(found) {
      const parts: string[] = [];
      let from = 0;
      for (const { index, spans } of [...found].sort((a, b) => a.index - b.index)) {
        const place = places[index];
        const value = values[index];
        if (place === undefined || value === undefined) continue;
        parts.push(text.slice(from, place.begin), JSON.stringify(mask(value, spans)));
        from = place.end;
      }
      return encoder.encode(parts.join('') + text.slice(from));
    },
  };
}

function mask(text: string, spans: readonly Span[]): string {
  const covered = new Uint8Array(text.length);
  for (const { begin, end } of spans) covered.fill(1, begin, end);
  let result = '';
  let at = 0;
  for (const character of text) {
    result += covered[at] === 1 ? '*' : character;
    at += character.length;
  }
  return result;
}

/** A text as it is compared: NFKC and lower case, with the place in the text that each of its units comes from. */
export interface FoldedText {
  readonly folded: string;
  /** For each unit of `folded`: where in the text the characters that it comes from begin. Undefined: at the same place. */
  readonly origins: readonly number[] | undefined;
  readonly length: number;
}

/** Printable ASCII folds to itself but for case. */
const ascii = /^[ -~\s]*$/;
/** A character and the marks that belong to it: they fold together. */
const cluster = /\P{M}\p{M}*|\p{M}+/gsu;

export function foldText(text: string): FoldedText {
  if (ascii.test(text)) return { folded: text.toLowerCase(), origins: undefined, length: text.length };
  let folded = '';
  const origins: number[] = [];
  for (const match of text.matchAll(cluster)) {
    const piece = match[0].normalize('NFKC').toLowerCase();
    folded += piece;
    for (let unit = 0; unit < piece.length; unit++) origins.push(match.index);
  }
  return { folded, origins, length: text.length };
}

/** The pieces of the text that a piece of its folded form comes from: whole characters. */
export function spansOfText({ origins, length }: FoldedText, begin: number, end: number): Span[] {
  if (origins === undefined) return [{ begin, end }];
  const from = origins[begin];
  if (from === undefined) return [];
  // To where the next character begins that is not part of it.
  const last = origins[end - 1];
  let next = end;
  while (next < origins.length && origins[next] === last) next++;
  return [{ begin: from, end: origins[next] ?? length }];
}
