/**
 * Lines of the log in which nothing moves a terminal: values are the caller's, and a path or a key may hold escape sequences, C1 controls, or characters that turn a
 * line's direction (UAX 9). JSON has escapes for them, and JSON.stringify writes those of C0 alone.
 */
const obeyed = /[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** A line of JSON with the same value, and escapes for what a terminal obeys. */
export function safeLine(line: string): string {
  return line.replace(obeyed, (char) => `\\u${hexOf(char)}`);
}

/** A line of JSON whose strings, when they are read and printed as they are, show what a terminal would obey as text. Ends of lines and tabs stay. */
export function safePrettyLine(line: string): string {
  return line
    .replace(obeyed, (char) => `\\\\u${hexOf(char)}`)
    .replace(/\\(u00[01][0-9a-f]|u007f|.)/g, (escaped, what: string) =>
      /^(u00[01]|u007f|[bfr])/.test(what) ? `\\${escaped}` : escaped,
    );
}

function hexOf(char: string): string {
  return char.charCodeAt(0).toString(16).padStart(4, '0');
}
