export const payloadFormats = ['text', 'json', 'hex'] as const;
export type PayloadFormat = (typeof payloadFormats)[number];

/** A payload as text; undefined when it is not UTF-8. */
export function textOf(payload: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(payload);
  } catch {
    return undefined;
  }
}

/** A payload as JSON, indented where that keeps it readable; undefined for no object or array. */
export function jsonOf(payload: Uint8Array): string | undefined {
  const text = textOf(payload);
  if (text === undefined || !/^\s*[{[]/.test(text)) return undefined;
  try {
    JSON.parse(text);
    const indented = indent(text);
    return indented.length > maxIndented ? text : indented;
  } catch {
    return undefined;
  }
}

/** Levels that are indented. Without a limit, 64 kB of brackets would become 2 GB of spaces. */
const maxIndent = 40;
/** Characters that are shown indented: the browser lays out 5 million in 6 seconds. */
const maxIndented = 500_000;

/** Indents JSON as it is written: parsing it would round long numbers. */
function indent(text: string): string {
  let depth = 0;
  const newLine = () => `\n${'  '.repeat(Math.min(depth, maxIndent))}`;
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g) ?? [];
  let result = '';
  tokens.forEach((token, index) => {
    const next = tokens[index + 1];
    if (token === '{' || token === '[') {
      depth++;
      result += next === '}' || next === ']' ? token : token + newLine();
    } else if (token === '}' || token === ']') {
      depth--;
      const previous = tokens[index - 1];
      result += previous === '{' || previous === '[' ? token : newLine() + token;
    } else if (token === ',') result += token + newLine();
    else result += token === ':' ? ': ' : token;
  });
  return result;
}

/** A payload as hexadecimal, 16 bytes per line with their offset and their ASCII. */
export function hexOf(payload: Uint8Array): string {
  const lines: string[] = [];
  for (let offset = 0; offset < payload.length; offset += 16) {
    const bytes = payload.subarray(offset, offset + 16);
    const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
    const ascii = Array.from(bytes, (byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : '.')).join('');
    lines.push(`${offset.toString(16).padStart(6, '0')}  ${hex.padEnd(47)}  ${ascii}`);
  }
  return lines.join('\n');
}

/** The format that says the most about a payload. */
export function bestFormat(payload: Uint8Array): PayloadFormat {
  if (jsonOf(payload) !== undefined) return 'json';
  return textOf(payload) === undefined ? 'hex' : 'text';
}

const previewBytes = 400;

/** One line that stands for a payload in a list. */
export function previewOf(payload: Uint8Array): string {
  // A cut in the middle of a character must not make a text look binary.
  const text = new TextDecoder().decode(payload.subarray(0, previewBytes));
  const isText = !/[^\P{Cc}\t\n\r]/u.test(text) && !text.slice(0, -1).includes('\ufffd');
  return isText ? text.replace(/\s+/g, ' ').trim() : hexOf(payload.subarray(0, 16)).slice(8, 55).trim();
}
