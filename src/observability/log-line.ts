/**
 * Characters that change how a terminal shows a line: C1 controls, bidirectional controls (UAX 9),
 * line separators. Values come from callers, so a path or a key may contain them. JSON.stringify
 * escapes only C0 controls.
 */
const terminalControls = /[\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** Escapes terminal controls in a JSON line; its value stays the same. */
export function safeLine(line: string): string {
  return line.replace(terminalControls, (char) => `\\u${hexOf(char)}`);
}

/**
 * Escapes a JSON line so that its strings, once parsed and printed, show terminal controls as text.
 * Line ends and tabs stay.
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
