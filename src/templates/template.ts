// Compiles and renders one Liquid template, bounded in time, memory and output. Stored templates
// and their caches are in templates.ts, scheduling in render.ts.

import { type Context, type Emitter, Liquid, type Template as Parsed, toValue } from 'liquidjs';
import { limits } from '../limits.ts';
import type { Refusal } from '../messages/service-error.ts';
import { isJson, parsePlainTemplate } from './plain-template.ts';
import { payloadTooLarge, templateFailed } from './refusals.ts';
import { findVariablesFault, type Variables } from './variables.ts';

/** The source of a template. */
export interface TemplateText {
  readonly name: string;
  readonly body: string;
  readonly format: 'text' | 'json';
}

/** A compiled template. */
export interface CompiledTemplate {
  /**
   * Names of its variables, sorted. Computed on the first call, since liquidjs takes up to seconds:
   * call it with a time limit.
   */
  readonly variables: () => readonly string[];
  /** Whether it is text and bare names only, and so renders in time linear to its length. */
  readonly isPlain: boolean;
  /** Approximate memory in bytes. */
  readonly bytes: number;
  /**
   * Renders a payload or a refusal. `at`: the value of `now` and `today`, in milliseconds since
   * 1970; unset: the time of rendering. `timeout`: liquidjs's message if its time limit ended;
   * worth a second attempt, as the process may have been suspended.
   */
  render(
    variables: Variables,
    at?: number,
  ): { readonly payload: Uint8Array } | { readonly refusal: Refusal; readonly timeout?: string };
}

/** Maximum milliseconds per rendering. */
const renderMs = 50;
/**
 * Maximum allocation and output per rendering, in liquidjs's measure: about characters and
 * elements.
 */
const maxMemory = 1_000_000;

const commonOptions = {
  ownPropertyOnly: true,
  strictVariables: true,
  strictFilters: true,
  // `{% if name %}` may test a missing variable.
  lenientIf: true,
  // The language of dates; the machine's would render a template differently on each instance, and
  // reading it takes 15 ms of a start.
  locale: 'en-US',
  parseLimit: limits.templateBytes,
  renderLimit: renderMs,
  memoryLimit: maxMemory,
};
/** Key of a rendering's time. Templates cannot name a symbol. */
const timeKey = Symbol('time');
const dateFilters = ['date', 'date_to_xmlschema', 'date_to_rfc822', 'date_to_string', 'date_to_long_string'];

const engines = {
  text: withRenderTime(withLimits(new Liquid(commonOptions))),
  json: withRenderTime(withLimits(new Liquid({ ...commonOptions, outputEscape: escapeForJson }))),
};

/**
 * Makes `now` and `today` the requested time, so that a repeated rendering gives the same message.
 */
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
 * Removes the tags that read files, and counts output (also of `capture`) as memory, which liquidjs
 * does not: 4,000 outputs of a variable of 60 kB would take 450 ms and 700 MB.
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

/** Throws for an integer that lost digits, literal or computed. Variables are checked earlier. */
function assertWhole(value: unknown): void {
  if (typeof value === 'number' && Number.isInteger(value) && !Number.isSafeInteger(value))
    throw new Error('an integer above 2^53 has lost digits; write it as a string');
}

/** Converts a value to text as Liquid does. */
function toText(written: unknown): string {
  const value: unknown = toValue(written);
  assertWhole(value);
  if (typeof value === 'string') return value;
  return Array.isArray(value) ? value.map(toText).join('') : String(value ?? '');
}

/** Memory of a parsed template, measured with liquidjs 10.30 and rounded up. */
const bytesOfTag = 1500;
const bytesOfTagChar = 100;

/** Counts tags and outputs, and the characters in them. */
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

/** Encodes a value for use between the quotes of a JSON string. */
function escapeForJson(value: unknown): string {
  assertWhole(value);
  const text =
    typeof value === 'string' ? value : typeof value === 'object' ? JSON.stringify(value) : String(value ?? '');
  return JSON.stringify(text).slice(1, -1);
}

/** Compiles a template, or returns what is wrong with it. */
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
        // liquidjs measures elapsed time.
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
      // UTF-8 has at least one byte per UTF-16 unit, so a long text needs no encoding.
      if (text.length > limits.payloadBytes) return { refusal: payloadTooLarge(name, text.length) };
      const isSurelyJson = joined !== undefined && plain?.isInStrings;
      if (format === 'json' && !isSurelyJson && !isJson(text))
        return { refusal: templateFailed(name, 'the output is not valid JSON') };
      const payload = toUtf8(text);
      if (payload.length === 0) return { refusal: templateFailed(name, 'the output is empty') };
      if (payload.length > limits.payloadBytes) return { refusal: payloadTooLarge(name, payload.length) };
      return { payload };
    },
  };
}

/**
 * Node's Buffer takes a quarter of TextEncoder's time; the console compiles templates without it.
 */
const toUtf8: (text: string) => Uint8Array =
  typeof Buffer === 'undefined' ? (text) => new TextEncoder().encode(text) : (text) => Buffer.from(text);

/** The message of an error without liquidjs's excerpt of the template. */
function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n', 1)[0] ?? '';
}
