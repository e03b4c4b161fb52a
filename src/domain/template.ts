import { Liquid, type Template as Parsed } from 'liquidjs';
import { limits } from '../limits.ts';
import type { Refusal } from './failure.ts';

/** A template as it is written. */
export interface TemplateText {
  readonly name: string;
  readonly body: string;
  readonly format: 'text' | 'json';
}

/** Variables of one message. */
export type Variables = Readonly<Record<string, unknown>>;

/** A template that is ready to be rendered. */
export interface CompiledTemplate {
  /** The names that it takes from its variables, sorted. To find them costs liquidjs up to seconds, so that they are sought when they are asked for, and in limited time. */
  readonly variables: () => readonly string[];
  /** It is text and bare names, and takes no longer than it is long. */
  readonly isPlain: boolean;
  /** About how many bytes of memory it holds. */
  readonly bytes: number;
  /** The payload, or why there is none. */
  render(variables: Variables): { readonly payload: Uint8Array } | { readonly refusal: Refusal };
}

/** Milliseconds of one rendering, and what it may allocate, in liquidjs's own measure: about characters and elements. */
const renderMs = 50;
const memory = 1_000_000;

const common = {
  ownPropertyOnly: true,
  strictVariables: true,
  strictFilters: true,
  // `{% if name %}` asks whether there is one.
  lenientIf: true,
  parseLimit: limits.templateBytes,
  renderLimit: renderMs,
  memoryLimit: memory,
};
const engines = {
  text: withoutFiles(new Liquid(common)),
  json: withoutFiles(new Liquid({ ...common, outputEscape: escapeForJson })),
};

/** Tags that read other templates from files. */
function withoutFiles(engine: Liquid): Liquid {
  for (const tag of ['include', 'render', 'layout', 'block']) delete engine.tags[tag];
  return engine;
}

/** Of a parsed template: measured with liquidjs 10.30, and rounded up. */
const bytesOfTag = 1500;
const bytesOfTagChar = 100;

/** How many tags and outputs there are, and how many characters in them. */
function tagsOf(body: string): { readonly tags: number; readonly chars: number } {
  const mark = /\{[{%]|[%}]\}/g;
  let tags = 0;
  let chars = 0;
  let open: number | undefined;
  for (let found = mark.exec(body); found !== null; found = mark.exec(body)) {
    if (found[0].startsWith('{')) {
      tags++;
      open ??= found.index;
    } else if (open !== undefined) {
      chars += found.index - open;
      open = undefined;
    }
  }
  return { tags, chars };
}

/** As it stands between the quotes of a JSON string. */
function escapeForJson(value: unknown): string {
  const text =
    typeof value === 'string' ? value : typeof value === 'object' ? JSON.stringify(value) : String(value ?? '');
  return JSON.stringify(text).slice(1, -1);
}

/** Compiles a template; returns what is wrong with it when it cannot be. */
export function compileTemplate({ name, body, format }: TemplateText): CompiledTemplate | { readonly fault: string } {
  const engine = engines[format];
  const { tags, chars } = tagsOf(body);
  if (tags > limits.templateTags)
    return { fault: `it has ${tags} tags and outputs, at most ${limits.templateTags} are taken` };
  let parsed: Parsed[];
  try {
    parsed = engine.parse(body);
  } catch (error) {
    return { fault: wordsOf(error) };
  }
  const plain = plainTemplate(body, format === 'json' ? escapeForJson : String);
  let names: readonly string[] | undefined;
  const variables = () => {
    names ??= [...new Set(engine.globalVariablesSync(parsed))].sort();
    return names;
  };
  return {
    variables,
    isPlain: plain !== undefined,
    bytes: 2 * body.length + bytesOfTag * tags + bytesOfTagChar * chars,
    render(given) {
      let text: string;
      try {
        text = plain?.(given) ?? engine.renderSync(parsed, given);
      } catch (error) {
        return {
          refusal: templateFailed(
            name,
            wordsOf(error),
            variables().filter((each) => !Object.hasOwn(given, each)),
          ),
        };
      }
      // Never more bytes than characters: a text that grew to hundreds of megabytes is not copied to be measured.
      if (text.length > limits.payloadBytes) return { refusal: tooLarge(name, text.length) };
      if (format === 'json' && !isJson(text)) return { refusal: templateFailed(name, 'what comes out is no JSON') };
      const payload = new TextEncoder().encode(text);
      if (payload.length === 0) return { refusal: templateFailed(name, 'what comes out is empty') };
      if (payload.length > limits.payloadBytes) return { refusal: tooLarge(name, payload.length) };
      return { payload };
    },
  };
}

/** An output of a bare name, which is no literal of Liquid's. */
const bareOutput = /\{\{ *(?!(?:true|false|nil|null|empty|blank) *\}\})([A-Za-z_]\w*) *\}\}/;

/**
 * Templates of nothing but text and bare names are most of them, and are joined by hand (with the quick check of such requests, 14 µs of the service a message instead of 30). It gives up, and leaves it to liquidjs, where a value
 * is missing or is no text, number or truth. A property holds it to liquidjs.
 */
export function plainTemplate(
  body: string,
  written: (value: unknown) => string,
): ((variables: Variables) => string | undefined) | undefined {
  // Text and names in turn.
  const parts = body.split(bareOutput);
  if (parts.some((part, index) => index % 2 === 0 && /\{[{%]|\{$/.test(part))) return undefined;
  return (variables) => {
    let text = parts[0] ?? '';
    for (let index = 1; index < parts.length; index += 2) {
      const name = parts[index] ?? '';
      const value = Object.hasOwn(variables, name) ? variables[name] : undefined;
      if (typeof value !== 'string' && typeof value !== 'number' && typeof value !== 'boolean') return undefined;
      text += written(value) + (parts[index + 1] ?? '');
    }
    return text;
  };
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** liquidjs puts the template's lines below its words. */
function wordsOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n', 1)[0] ?? '';
}

/** The refusal of a message that cannot be rendered. */
export function templateFailed(name: string, why: string, missing: readonly string[] = []): Refusal {
  return {
    reason: 'TEMPLATE_FAILED',
    message:
      missing.length > 0
        ? `template ${JSON.stringify(name)} needs variables that are not given: ${missing.join(', ')}`
        : `template ${JSON.stringify(name)} cannot be rendered: ${why}`,
    metadata: { template: name, ...(missing.length > 0 ? { missing: missing.join(',') } : {}) },
  };
}

function tooLarge(name: string, bytes: number): Refusal {
  return {
    reason: 'PAYLOAD_TOO_LARGE',
    message: `template ${JSON.stringify(name)} renders ${bytes} bytes, at most ${limits.payloadBytes} are taken`,
    metadata: { template: name, limit: String(limits.payloadBytes), actual: String(bytes) },
  };
}

/** The refusal of a message whose template is not there. */
export function templateMissing(name: string, version: number): Refusal {
  return {
    reason: 'TEMPLATE_NOT_EXIST',
    message: `there is no template ${JSON.stringify(name)}${version > 0 ? ` of version ${version}` : ''}`,
    metadata: { template: name, version: String(version) },
  };
}
