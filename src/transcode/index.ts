/**
 * The google.api.http routes of Connect services: JSON requests in, JSON answers out.
 *
 * - `createTranscoder` compiles the annotations of services into bindings and answers requests. It
 *   knows no message of this project.
 * - Way of a request: `router` finds the bindings of a path, `body` reads and parses the body,
 *   `request` builds the message from body, path and query, `handler` calls the implementation
 *   through the interceptors and writes the answer.
 * - Every mistake in an annotation is an error at start; a request's errors name every invalid
 *   field.
 * - A large body is scanned, parsed and read in slices, so that it never stalls the event loop.
 *
 * Sources: google/api/http.proto (templates, bodies), the ProtoJSON specification (values).
 */
import {
  create,
  createRegistry,
  type DescMessage,
  type Message,
  type MessageShape,
  type Registry,
} from '@bufbuild/protobuf';
import type { UniversalServerResponse } from '@connectrpc/connect/protocol';
import type { Binding } from './binding.ts';
import { type BodyBounds, listOfMessage, parseBody } from './body.ts';
import { compileBindings } from './compile-bindings.ts';
import { Faults, TranscodeError } from './error.ts';
import { createHandler } from './handler.ts';
import { JsonReader, type JsonReadOptions } from './json-reader.ts';
import { parseJson } from './json-text.ts';
import { JsonWriter } from './json-writer.ts';
import type { TranscodedRequest, TranscoderOptions } from './options.ts';
import { readQuery } from './query.ts';
import { type Route, Router, splitUrl } from './router.ts';

export { TextBody } from './answer.ts';
export type { Binding, RulesOf } from './binding.ts';
export { type BodyBounds, unpackGzip, WholeBody } from './body.ts';
export { shortNameOf } from './enum.ts';
export { TranscodeError } from './error.ts';
export { isImplicit } from './field.ts';
export {
  createInvokeServerStream,
  createInvokeUnary,
  type InvokeServerStream,
  type InvokeUnary,
  type ServerStreamMethod,
  UnaryContext,
  type UnaryMethod,
} from './invoke.ts';
export { LightHeaders, recordOf } from './light-headers.ts';
export type { CallController, TranscodedCall, TranscodedRequest, TranscoderOptions } from './options.ts';
export { queryTargets } from './query.ts';
export type { Route } from './router.ts';
export { isLong, maxTextLength, textTooLong } from './scalar.ts';
export { concurrentDecompressions, Slices, withConcurrencyLimit } from './slices.ts';
export { httpStatuses } from './status.ts';
export { didYouMean } from './suggest.ts';
export { leafOf, spellTarget, type Target } from './target.ts';
export { isWellKnown } from './well-known.ts';

/** Serves the google.api.http routes of services. */
export interface Transcoder {
  readonly bindings: readonly Binding[];
  /** Writes a message as the routes answer it. */
  write(schema: DescMessage, message: Message): string;
  /**
   * Reads a message from JSON that is at `field` of a request, such as `messages[3]`. Throws on
   * every fault, including unknown fields.
   */
  read<D extends DescMessage>(schema: D, json: Uint8Array, field: string): MessageShape<D> | Promise<MessageShape<D>>;
  /**
   * Throws on every fault of a small ProtoJSON request, including unknown fields. Numbers may be
   * strings.
   */
  check(schema: DescMessage, json: Uint8Array): void;
  /** Reads a message from a query. */
  readQuery<D extends DescMessage>(schema: D, search: string): MessageShape<D>;
  /** The route of a verb and a URL; undefined when no template matches the path. */
  routeOf(verb: string, url: string): Route | undefined;
  /** Answers a request; undefined when no route has its path. */
  handle(request: TranscodedRequest): Promise<UniversalServerResponse | undefined>;
}

const defaultBounds: Omit<BodyBounds, 'maxBytes'> = {
  parsedBytes: 64 * 1024 * 1024,
  listElements: 100_000,
  objectKeys: 10_000,
  unpackedRatio: 200,
  unpackedFreeBytes: 1024 * 1024,
  maxElements: () => Number.POSITIVE_INFINITY,
};

/**
 * Reads messages from JSON bodies by the rules of ProtoJSON. Throws on every fault, including
 * unknown fields.
 */
export function createJsonBodyReader(
  bounds: BodyBounds,
  registry: Registry,
): (desc: DescMessage, bytes: Uint8Array) => Promise<Message> {
  const reader = new JsonReader({ strictNumbers: false, strictFields: true, anyCase: false, registry });
  return async (desc, bytes) => {
    const listOf = (key: string | undefined) => (key === undefined ? undefined : listOfMessage(desc, key, bounds));
    if (bytes.length === 0) throw new TranscodeError(400, 'the body is empty; send {} for a message without fields');
    const { json, slices } = await parseBody(bytes, bounds, listOf);
    const faults = new Faults();
    const message =
      slices === undefined
        ? reader.message(desc, json, undefined, faults)
        : await reader.messageInSlices(desc, json, faults, slices);
    faults.settle();
    return message;
  };
}

/** Smaller JSON is parsed in one piece when a body arrives in parts. */
const smallBytes = 64 * 1024;

/** How the JSON routes write, unless the options say otherwise. */
const routesWrite = { protoNames: true, longsAsNumbers: true, enumsAsNumbers: true, alwaysImplicit: true } as const;

/** Returns a writer for JSON in the form of the routes, for output other than answers. */
export function createJsonWriter(registry = createRegistry()): Transcoder['write'] {
  const writer = new JsonWriter({ ...routesWrite, registry });
  return (schema, message) => writer.message(schema, message);
}

/**
 * Creates the JSON routes of services from their google.api.http annotations.
 *
 * Each route calls the same implementation as the RPC protocols, through the same interceptors, in
 * process. Throws on every mistake in an annotation.
 */
export function createTranscoder(options: TranscoderOptions): Transcoder {
  const {
    services,
    interceptors = [],
    registry = createRegistry(),
    rulesOf = () => ({}),
    strictNumbers = true,
  } = options;
  const bindings = compileBindings(
    services.map(({ service }) => service),
    rulesOf,
  );
  const bounds = { ...defaultBounds, ...options.bounds, maxBytes: options.readMaxBytes };
  const router = new Router(bindings);
  const readerOf = createReaders({ registry, strictNumbers });
  const writer = new JsonWriter({ ...routesWrite, ...options.write, registry });
  const write = (schema: DescMessage, message: Message) => writer.message(schema, message);
  const read = <D extends DescMessage>(schema: D, json: Uint8Array, field: string) => {
    const faults = new Faults();
    const settle = (parsed: unknown) => {
      const message = readerOf({ strictFields: true, anyCase: false }).message(
        schema,
        parsed,
        { parent: undefined, step: field },
        faults,
      );
      faults.settle();
      return message as MessageShape<D>;
    };
    if (json.length < smallBytes) return settle(parseJson(json, { object: field }));
    const listOf = (key: string | undefined) => (key === undefined ? undefined : listOfMessage(schema, key, bounds));
    return Promise.resolve(parseBody(json, bounds, listOf, { object: field })).then((parsed) => settle(parsed.json));
  };
  const protoJson = new JsonReader({ registry, strictNumbers: false, strictFields: true, anyCase: false });
  const check = (schema: DescMessage, json: Uint8Array) => {
    const faults = new Faults();
    protoJson.message(schema, parseJson(json), undefined, faults);
    faults.settle();
  };
  const queryOf = <D extends DescMessage>(schema: D, search: string) => {
    const faults = new Faults();
    const message = create(schema);
    const binding = { method: { input: schema }, body: { kind: 'none' }, variables: [], queryFields: [] } as const;
    readQuery(message, binding, search, options.unknownQuery === 'refuse', faults);
    faults.settle();
    return message;
  };
  return {
    bindings,
    write,
    read,
    check,
    readQuery: queryOf,
    routeOf: (verb, url) => router.find(verb, splitUrl(url).path),
    handle: createHandler({ ...options, interceptors, registry, bounds }, { router, readerOf, writer }),
  };
}

/** Returns the reader of a route's options, one reader per combination. */
function createReaders(options: Pick<JsonReadOptions, 'registry' | 'strictNumbers'>) {
  const readers = new Map<string, JsonReader>();
  return ({ strictFields, anyCase }: Pick<JsonReadOptions, 'strictFields' | 'anyCase'>): JsonReader => {
    const key = `${strictFields} ${anyCase}`;
    let reader = readers.get(key);
    if (reader === undefined) {
      reader = new JsonReader({ ...options, strictFields, anyCase });
      readers.set(key, reader);
    }
    return reader;
  };
}
