/** One segment of a path: a literal, `*` (one segment), or `**` (all remaining segments). */
export type Segment = { readonly literal: string } | '*' | '**';

/** A variable of a template: the segments it matches, and the field that it sets. */
export interface Variable {
  readonly fieldPath: readonly string[];
  readonly start: number;
  /** Exclusive. Ignored when the variable ends in `**`, which matches to the end of the path. */
  readonly end: number;
  readonly toEnd: boolean;
}

/** A parsed path template of google.api.http. */
export interface Template {
  readonly text: string;
  readonly segments: readonly Segment[];
  readonly variables: readonly Variable[];
  /** The text after the last `:`; empty when there is none. */
  readonly verb: string;
}

const literalPattern = /^(?:[\w.~!$&'()+,;=@-]|%[0-9A-Fa-f]{2})+$/;
const fieldPathPattern = /^[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*$/;

/**
 * Parses `Template = "/" Segments [ Verb ]` as defined in google/api/http.proto. Throws on a
 * mistake.
 *
 * Variables do not nest, and `**` must be the last segment.
 */
export function parseTemplate(text: string): Template {
  if (!text.startsWith('/')) throw new Error('must start with /');
  const { path, verb } = splitVerb(text.slice(1));
  const segments: Segment[] = [];
  const variables: Variable[] = [];
  for (const part of splitSegments(path)) {
    if (!part.startsWith('{')) {
      segments.push(parseSegment(part));
      continue;
    }
    const equals = part.indexOf('=');
    const name = part.slice(1, equals === -1 ? -1 : equals);
    const pattern = equals === -1 ? '*' : part.slice(equals + 1, -1);
    if (!fieldPathPattern.test(name)) throw new Error(`${JSON.stringify(name)} is not a field path`);
    const start = segments.length;
    for (const inner of pattern.split('/')) segments.push(parseSegment(inner));
    variables.push({ fieldPath: name.split('.'), start, end: segments.length, toEnd: segments.at(-1) === '**' });
  }
  const rest = segments.indexOf('**');
  if (rest !== -1 && rest !== segments.length - 1) throw new Error('** must be the last segment');
  return { text, segments, variables, verb };
}

/** Splits at the last colon that is outside braces and in the last segment. */
function splitVerb(text: string): { path: string; verb: string } {
  const colon = text.lastIndexOf(':');
  if (colon === -1 || text.indexOf('/', colon) !== -1 || text.indexOf('}', colon) !== -1)
    return { path: text, verb: '' };
  const verb = text.slice(colon + 1);
  if (!literalPattern.test(verb)) throw new Error(`${JSON.stringify(verb)} is not a verb`);
  return { path: text.slice(0, colon), verb: decodeURIComponent(verb) };
}

/** Splits at slashes outside braces. */
function splitSegments(text: string): string[] {
  const parts: string[] = [];
  let depth = 0;
  let start = 0;
  for (let index = 0; index <= text.length; index++) {
    const character = text[index];
    if (character === '{' && depth++ > 0) throw new Error('variables do not nest');
    if (character === '}' && --depth < 0) throw new Error('} without {');
    if (index < text.length && (character !== '/' || depth > 0)) continue;
    parts.push(text.slice(start, index));
    start = index + 1;
  }
  if (depth > 0) throw new Error('{ without }');
  for (const part of parts)
    if (/[{}]/.test(part) && !/^\{[^{}]*\}$/.test(part))
      throw new Error(`${JSON.stringify(part)}: a variable is a whole segment`);
  return parts;
}

function parseSegment(part: string): Segment {
  if (part === '*' || part === '**') return part;
  if (part === '') throw new Error('a segment is empty');
  if (!literalPattern.test(part)) throw new Error(`${JSON.stringify(part)} is not a segment`);
  return { literal: decodeURIComponent(part) };
}

/**
 * Returns the decoded text that a variable matches in a path. A single segment is decoded
 * completely; several keep `%2F` encoded, as http.proto specifies.
 */
export function capture(variable: Variable, template: Template, raw: readonly string[]): string {
  const taken = raw.slice(variable.start, variable.toEnd ? raw.length : variable.end);
  const isSingle = variable.end - variable.start === 1 && template.segments[variable.start] !== '**';
  return isSingle ? decodeURIComponent(taken[0] ?? '') : taken.map(decodeButSlashes).join('/');
}

function decodeButSlashes(segment: string): string {
  const parts = segment.split(/(%2f)/i);
  return parts.map((part, index) => (index % 2 === 1 ? part : decodeURIComponent(part))).join('');
}
