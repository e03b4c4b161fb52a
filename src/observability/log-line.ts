/**
 * Characters that change how a terminal shows a line: C1 controls, bidirectional controls (UAX 9),
 * line separators. Values come from callers, so a path or a key may contain them. JSON.stringify
 * escapes only C0 controls.
 */
const terminalControls = /[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** A line of JSON with the same value, and escapes for what a terminal obeys. */
export function safeLine(line: string): string {
  return line.replace(terminalControls, (char) => `\\u${hexOf(char)}`);
}

/**
 * A line of JSON whose strings, when they are read and printed as they are, show what a terminal
 * would obey as text. Ends of lines and tabs stay.
 */
export function safePrettyLine(line: string): string {
  return line
    .replace(terminalControls, (char) => `\\\\u${hexOf(char)}`)
    .replace(/\\(u00[01][0-9a-f]|u007f|.)/g, (escaped, what: string) =>
      /^(u00[01]|u007f|[bfr])/.test(what) ? `\\${escaped}` : escaped,
    );
}

function hexOf(char: string): string {
  return char.charCodeAt(0).toString(16).padStart(4, '0');
}
