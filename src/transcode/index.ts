import type { DescMethodUnary, DescService, Message, Registry } from '@bufbuild/protobuf';
import { create } from '@bufbuild/protobuf';
import {
  ConnectError,
  createHandlerContext,
  createServiceImplSpec,
  type Interceptor,
  type MethodImplSpec,
  type ServiceImpl,
} from '@connectrpc/connect';
import {
  invokeUnaryImplementation,
  type UniversalServerRequest,
  type UniversalServerResponse,
} from '@connectrpc/connect/protocol';
import { type Binding, compileBindings } from './binding.ts';
import { readBody } from './body.ts';
import { Faults, TranscodeError } from './error.ts';
import { JsonReader } from './json-reader.ts';
import { parseJson } from './json-text.ts';
import { JsonWriter } from './json-writer.ts';
import { parseQuery, setFromTexts, targetOf } from './params.ts';
import { capture } from './template.ts';
import { Trie } from './trie.ts';

export type { Binding } from './binding.ts';
export { type FieldFault, TranscodeError } from './error.ts';

/** A call that succeeded: for choosing the status and the shape of its answer. */
export interface TranscodedCall {
  readonly method: DescMethodUnary;
  readonly binding: Binding;
  readonly response: Message;
  /** The body as the annotation has it. */
  json(): string;
}

export interface TranscoderOptions {
  /** A service and the object with its methods, as a ConnectRouter takes them. */
  readonly services: readonly { readonly service: DescService; readonly implementation: object }[];
  /** The same ones that the RPC protocols run, in the same order. */
  readonly interceptors: Interceptor[];
  /** Types for google.protobuf.Any. */
  readonly registry: Registry;
  /** Bytes of a body at most, as sent and unpacked. */
  readonly readMaxBytes: number;
  /** Milliseconds that a call may take; `Connect-Timeout-Ms` may shorten it. */
  readonly timeoutMs: number;
  /** Another status or body than 200 and the annotation's. */
  readonly answer: (call: TranscodedCall) => { status?: number; body?: string };
  /** What an error looks like. */
  readonly failure: (error: ConnectError) => { status: number; headers: Headers; body: string };
}

/** Serves the google.api.http routes of services. */
export interface Transcoder {
  readonly bindings: readonly Binding[];
  /** Undefined when no route has this path. */
  handle(request: UniversalServerRequest): Promise<UniversalServerResponse | undefined>;
}

/**
 * Makes the JSON routes of services out of their google.api.http annotations. Each hands its call to the same implementation, through the same
 * interceptors, in process. Every mistake in a rule is an error here, before anything is served.
 */
export function createTranscoder(options: TranscoderOptions): Transcoder {
  const bindings = compileBindings(options.services.map(({ service }) => service));
  const implementations = new Map<DescMethodUnary, Implementation>();
  for (const { service, implementation } of options.services) {
    for (const spec of Object.values(
      createServiceImplSpec(service, implementation as Partial<ServiceImpl<DescService>>).methods,
    )) {
      if (spec.kind === 'unary') implementations.set(spec.method as DescMethodUnary, spec as Implementation);
    }
  }
  const trie = new Trie<Binding[]>();
  for (const binding of bindings) trie.at(binding.template, () => []).push(binding);
  const reader = new JsonReader({ registry: options.registry, strictNumbers: true });
  const writer = new JsonWriter({
    registry: options.registry,
    protoNames: true,
    longsAsNumbers: true,
    enumsAsNumbers: true,
  });

  return {
    bindings,
    async handle(request) {
      const url = new URL(request.url, 'http://localhost');
      try {
        const route = find(trie, request.method, url.pathname);
        if (route === undefined) return undefined;
        if ('allow' in route) return refuseVerb(request.method, route.allow, options);
        return await call(request, url, route.bindings, route.segments);
      } catch (error) {
        const { status, headers, body } = options.failure(ConnectError.from(error));
        return respond(status, body, headers, request.method);
      }
    },
  };

  async function call(
    request: UniversalServerRequest,
    url: URL,
    candidates: readonly Binding[],
    segments: readonly string[],
  ) {
    const json = candidates.every((each) => each.body.kind === 'none')
      ? undefined
      : await readBody(request, options.readMaxBytes, parseJson);
    const binding = byRoot(candidates, json);
    const input = inputOf(binding, json, segments, url.search, reader);
    const spec = implementations.get(binding.method);
    if (spec === undefined) throw new Error(`${binding.method.name} has no implementation`);
    const context = createHandlerContext({
      service: binding.method.parent,
      method: binding.method,
      protocolName: 'http-json',
      requestMethod: request.method,
      url: url.href,
      timeoutMs: timeoutOf(request.header, options.timeoutMs),
      requestSignal: request.signal,
      requestHeader: request.header,
      responseHeader: {},
      responseTrailer: {},
      ...(request.contextValues === undefined ? {} : { contextValues: request.contextValues }),
    });
    try {
      const response = await invokeUnaryImplementation(spec, context, input, options.interceptors);
      const plain = () =>
        binding.responseBody === undefined
          ? writer.message(binding.method.output, response)
          : writer.field(response, binding.responseBody);
      const { status = 200, body = plain() } = options.answer({
        method: binding.method,
        binding,
        response,
        json: plain,
      });
      return respond(status, body, context.responseHeader, request.method);
    } finally {
      context.abort();
    }
  }
}

type Implementation = MethodImplSpec & { kind: 'unary' };

function find(
  trie: Trie<Binding[]>,
  verb: string,
  pathname: string,
): { bindings: Binding[]; segments: readonly string[] } | { allow: string[] } | undefined {
  const wanted = verb === 'HEAD' ? 'GET' : verb;
  const allow = new Set<string>();
  let matches: Generator<{ value: Binding[]; segments: readonly string[] }>;
  try {
    matches = trie.find(pathname.slice(1).split('/'));
    for (const { value, segments } of matches) {
      const bindings = value.filter((binding) => binding.verb === wanted || binding.verb === '*');
      const exact = bindings.filter((binding) => binding.verb === wanted);
      if (bindings.length > 0) return { bindings: exact.length > 0 ? exact : bindings, segments };
      for (const binding of value) allow.add(binding.verb);
    }
  } catch (error) {
    if (error instanceof URIError) throw new TranscodeError(400, 'the path has a percent-encoding that is not UTF-8');
    throw error;
  }
  if (allow.size === 0) return undefined;
  if (allow.has('GET')) allow.add('HEAD');
  return { allow: [...allow, 'OPTIONS'].sort() };
}

function refuseVerb(verb: string, allow: readonly string[], options: TranscoderOptions): UniversalServerResponse {
  const header = { allow: allow.join(', ') };
  if (verb === 'OPTIONS') return { status: 204, header: new Headers(header) };
  const { status, headers, body } = options.failure(
    new TranscodeError(405, `this path takes ${allow.join(', ')}, not ${verb}`),
  );
  headers.set('allow', header.allow);
  return respond(status, body, headers, verb);
}

/** Where routes share a path, the JSON root of the body decides. */
function byRoot(candidates: readonly Binding[], json: unknown): Binding {
  const [first] = candidates;
  if (first === undefined) throw new Error('no candidates');
  if (candidates.length === 1 && first.root !== 'array' && first.root !== 'object') return first;
  const root = Array.isArray(json)
    ? 'array'
    : json === undefined || (typeof json === 'object' && json !== null)
      ? 'object'
      : 'other';
  const chosen = candidates.find((each) => each.root === root);
  if (chosen !== undefined) return chosen;
  const taken = candidates.map((each) => `an ${each.root}`).join(' or ');
  const got =
    json === undefined ? 'empty' : json === null ? 'null' : root === 'other' ? `a ${typeof json}` : `an ${root}`;
  throw new TranscodeError(400, `the body must be ${taken} in JSON, not ${got}`);
}

/** The request message: the body first, then the path, then the query, each for fields that the others do not bind. */
function inputOf(
  binding: Binding,
  json: unknown,
  segments: readonly string[],
  search: string,
  reader: JsonReader,
): Message {
  const faults = new Faults();
  const { input } = binding.method;
  const { body } = binding;
  const message = body.kind === 'whole' ? reader.message(input, json ?? {}, '', faults) : create(input);
  if (body.kind === 'field' && json !== undefined) reader.field(message, body.field, json, faults);
  for (const { variable, target } of binding.variables)
    setFromTexts(message, target, [capture(variable, binding.template, segments)], faults);
  if (body.kind !== 'whole') {
    for (const [name, texts] of parseQuery(search)) {
      const [top] = name.split('.');
      // A parameter that no field has may be a proxy's or a cache-breaker: it is passed over.
      const field = input.fields.find((each) => each.name === top || each.jsonName === top);
      if (field === undefined) continue;
      try {
        const target = targetOf(input, name.split('.'), true);
        if (body.kind === 'field' && body.field === field) throw new Error('comes from the body here');
        if (binding.variables.some((each) => each.target.leaf === target.leaf))
          throw new Error('comes from the path here');
        setFromTexts(message, target, texts, faults);
      } catch (error) {
        if (error instanceof TranscodeError) throw error;
        faults.add(name.slice(0, 128), error instanceof Error ? error.message : String(error));
      }
    }
  }
  faults.settle();
  return message;
}

function timeoutOf(header: Headers, longest: number): number {
  const text = header.get('connect-timeout-ms');
  if (text === null) return longest;
  if (!/^\d{1,10}$/.test(text))
    throw new TranscodeError(400, 'Connect-Timeout-Ms must be milliseconds, in at most ten digits');
  return Math.min(Number(text), longest);
}

const utf8 = new TextEncoder();

function respond(status: number, body: string, headers: Headers, verb: string): UniversalServerResponse {
  const bytes = utf8.encode(body);
  const header = new Headers(headers);
  header.set('content-type', 'application/json');
  header.set('content-length', String(bytes.length));
  header.set('x-content-type-options', 'nosniff');
  return { status, header, ...(verb === 'HEAD' ? {} : { body: once(bytes) }) };
}

async function* once(bytes: Uint8Array): AsyncIterable<Uint8Array> {
  yield bytes;
}
