import { type Context, type Emitter, Liquid, type Template as Parsed, toValue } from 'liquidjs';
import { limits } from '../limits.ts';
import type { Refusal } from '../messages/service-error.ts';
import { findVariablesFault, isExact } from './variables.ts';

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
  /**
   * The payload, or why there is none. `at`: the time that `now` and `today` mean, in milliseconds since 1970; unset: when it is rendered. `late`: its time was over, in liquidjs's words; the process may
   * have stood still, so that it is worth another attempt.
   */
  render(
    variables: Variables,
    at?: number,
  ): { readonly payload: Uint8Array } | { readonly refusal: Refusal; readonly timeout?: string };
}

/** Milliseconds of one rendering, and what it may allocate and write, in liquidjs's own measure: about characters and elements. */
const renderMs = 50;
const maxMemory = 1_000_000;

const common = {
  ownPropertyOnly: true,
  strictVariables: true,
  strictFilters: true,
  // `{% if name %}` asks whether there is one.
  lenientIf: true,
  parseLimit: limits.templateBytes,
  renderLimit: renderMs,
  memoryLimit: maxMemory,
};
/** Where a rendering has its time: no template can name a symbol. */
const timeKey = Symbol('time');
const dateFilters = ['date', 'date_to_xmlschema', 'date_to_rfc822', 'date_to_string', 'date_to_long_string'];

const engines = {
  text: withRenderTime(withLimits(new Liquid(common))),
  json: withRenderTime(withLimits(new Liquid({ ...common, outputEscape: escapeForJson }))),
};

/** `now` and `today` are the time of the rendering that was asked for, so that a message that is rendered again is the same. */
function withRenderTime(engine: Liquid): Liquid {
  for (const name of dateFilters) {
    const filter = engine.filters[name];
    if (typeof filter !== 'function') throw new Error(`liquidjs has no filter ${name}`);
    engine.registerFilter(name, function (value: unknown, ...more: unknown[]) {
      const at = (this.context.globals as { [timeKey]?: number })[timeKey];
      const isNow = at !== undefined && (value === 'now' || value === 'today');
      return filter.call(this, isNow ? new Date(at) : value, ...more);
    });
  }
  return engine;
}

/**
 * Without the tags that read other templates from files; and what is written, also into a `capture`, counts as memory, which liquidjs does not count: 4000 times
 * a variable of 60 kB took 450 ms and 700 MB.
 */
function withLimits(engine: Liquid): Liquid {
  for (const tag of ['include', 'render', 'layout', 'block']) delete engine.tags[tag];
  const { renderer } = engine;
  const renderTemplates = renderer.renderTemplates.bind(renderer);
  renderer.renderTemplates = (templates, context, emitter = countingEmitter(context)) =>
    renderTemplates(templates, context, emitter);
  return engine;
}

function countingEmitter({ memoryLimit }: Context): Emitter {
  return {
    buffer: '',
    write(written) {
      const text = toText(written);
      memoryLimit.use(text.length);
      this.buffer += text;
    },
  };
}

/** Throws for a whole number that has lost digits: one of the template's own text, or what it has computed. Variables are checked before. */
function assertWhole(value: unknown): void {
  if (typeof value === 'number' && Number.isInteger(value) && !Number.isSafeInteger(value))
    throw new Error('an integer above 2^53 has lost digits; write it as a string');
}

/** As Liquid writes a value. */
function toText(written: unknown): string {
  const value: unknown = toValue(written);
  assertWhole(value);
  if (typeof value === 'string') return value;
  return Array.isArray(value) ? value.map(toText).join('') : String(value ?? '');
}

/** Of a parsed template: measured with liquidjs 10.30, and rounded up. */
const bytesOfTag = 1500;
const bytesOfTagChar = 100;

/** How many tags and outputs there are, and how many characters in them. */
function countTags(body: string): { readonly tags: number; readonly chars: number } {
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
  assertWhole(value);
  const text =
    typeof value === 'string' ? value : typeof value === 'object' ? JSON.stringify(value) : String(value ?? '');
  return JSON.stringify(text).slice(1, -1);
}

/** Compiles a template; returns what is wrong with it when it cannot be. */
export function compileTemplate({ name, body, format }: TemplateText): CompiledTemplate | { readonly fault: string } {
  const engine = engines[format];
  const { tags, chars } = countTags(body);
  if (tags > limits.templateTags)
    return { fault: `it has ${tags} tags and outputs, at most ${limits.templateTags} are allowed` };
  let parsed: Parsed[];
  try {
    parsed = engine.parse(body);
  } catch (error) {
    return { fault: firstLine(error) };
  }
  const plain = parsePlainTemplate(body, format === 'json' ? escapeForJson : String);
  let names: readonly string[] | undefined;
  const variables = () => {
    names ??= [...new Set(engine.globalVariablesSync(parsed))].sort();
    return names;
  };
  return {
    variables,
    isPlain: plain !== undefined,
    bytes: 2 * body.length + bytesOfTag * tags + bytesOfTagChar * chars,
    render(given, at) {
      let text: string;
      const joined = plain?.join(given);
      const fault = joined === undefined ? findVariablesFault(given) : undefined;
      if (fault !== undefined) return { refusal: templateFailed(name, fault) };
      try {
        text = joined ?? engine.renderSync(parsed, given, at === undefined ? {} : { globals: { [timeKey]: at } });
      } catch (error) {
        // liquidjs counts time by the clock.
        if (firstLine(error).includes('render limit'))
          return { refusal: templateFailed(name, firstLine(error)), timeout: firstLine(error) };
        return {
          refusal: templateFailed(
            name,
            firstLine(error),
            variables().filter((each) => !Object.hasOwn(given, each)),
          ),
        };
      }
      // Never more bytes than characters: a text that is too long is not copied to be measured.
      if (text.length > limits.payloadBytes) return { refusal: payloadTooLarge(name, text.length) };
      const isSurelyJson = joined !== undefined && plain?.isInStrings;
      if (format === 'json' && !isSurelyJson && !isJson(text))
        return { refusal: templateFailed(name, 'the output is not valid JSON') };
      // A quarter of what TextEncoder takes.
      const payload = Buffer.from(text);
      if (payload.length === 0) return { refusal: templateFailed(name, 'the output is empty') };
      if (payload.length > limits.payloadBytes) return { refusal: payloadTooLarge(name, payload.length) };
      return { payload };
    },
  };
}

/** An output of a bare name, which is no literal of Liquid's. */
const bareOutput = /\{\{ *(?!(?:true|false|nil|null|empty|blank) *\}\})([A-Za-z_]\w*) *\}\}/;

/** A template of text and bare names in turn. */
export interface PlainTemplate {
  /** What comes out, or the part of it that is too long already; undefined where a value is missing or is no text, number or truth, which is left to liquidjs. */
  join(variables: Variables): string | undefined;
  /** Whether it is JSON whatever the values are: each name stands in a string. */
  readonly isInStrings: boolean;
}

/**
 * Templates of nothing but text and bare names are most of them, and are joined by hand (with the quick check of such requests, 14 µs of the service a message
 * instead of 30). A property holds it to liquidjs.
 */
export function parsePlainTemplate(body: string, written: (value: unknown) => string): PlainTemplate | undefined {
  const parts = body.split(bareOutput);
  if (parts.some((part, index) => index % 2 === 0 && /\{[{%]|\{$/.test(part))) return undefined;
  return {
    join(variables) {
      let text = parts[0] ?? '';
      for (let index = 1; index < parts.length && text.length <= limits.payloadBytes; index += 2) {
        const name = parts[index] ?? '';
        const value = Object.hasOwn(variables, name) ? variables[name] : undefined;
        if (typeof value !== 'string' && typeof value !== 'number' && typeof value !== 'boolean') return undefined;
        if (typeof value === 'number' && !isExact(value)) return undefined;
        text += written(value) + (parts[index + 1] ?? '');
      }
      return text;
    },
    // A `~` is JSON in a string only, and there neither after a backslash nor among the digits of an escape.
    isInStrings: isJson(parts.filter((_, index) => index % 2 === 0).join('~')),
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
function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n', 1)[0] ?? '';
}

/** The refusal of a message that cannot be rendered. */
export function templateFailed(name: string, why: string, missing: readonly string[] = []): Refusal {
  return {
    reason: 'TEMPLATE_FAILED',
    message:
      missing.length > 0
        ? `template ${JSON.stringify(name)} needs variables that were not given: ${missing.join(', ')}`
        : `template ${JSON.stringify(name)} cannot be rendered: ${why}`,
    metadata: { template: name, ...(missing.length > 0 ? { missing: missing.join(',') } : {}) },
  };
}

function payloadTooLarge(name: string, bytes: number): Refusal {
  return {
    reason: 'PAYLOAD_TOO_LARGE',
    message: `template ${JSON.stringify(name)} renders at least ${bytes} bytes, at most ${limits.payloadBytes} are allowed`,
    metadata: { template: name, limit: String(limits.payloadBytes), actual: String(bytes) },
  };
}

/**
 * The version of a template that did not exist when its batch was submitted, as a number that no version has. A batch that says so is refused what it asks for even when the template is created
 * before its time.
 */
export function missingVersion(requested: number): number {
  return -1 - requested;
}

/** The version that was asked for, of one that may be missing; 0: the latest. */
export function requestedVersion(version: number): number {
  return version < 0 ? -1 - version : version;
}

/** The refusal of a message whose template is not there. */
export function templateMissing(name: string, version: number): Refusal {
  const requested = requestedVersion(version);
  const since = version < 0 ? '; it did not exist when the batch was submitted' : '';
  return {
    reason: 'TEMPLATE_NOT_FOUND',
    message: `template ${JSON.stringify(name)}${requested > 0 ? ` version ${requested}` : ''} does not exist${since}`,
    metadata: { template: name, version: String(requested) },
  };
}
