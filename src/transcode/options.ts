import type { DescField, DescMethodUnary, DescService, Message, Registry } from '@bufbuild/protobuf';
import type { ConnectError, Interceptor } from '@connectrpc/connect';
import type { UniversalServerRequest } from '@connectrpc/connect/protocol';
import type { HeadersSource } from './answer.ts';
import type { Binding, RulesOf } from './binding.ts';
import type { BodyBounds } from './body.ts';
import type { JsonWriteOptions } from './json-writer.ts';
import type { Route } from './router.ts';

/** Aborts a call: an AbortController, or what creates its signal only when it is read. */
export interface CallController {
  readonly signal: AbortSignal;
  abort(reason: unknown): void;
}

/**
 * A request. `controller` belongs to its signal and is aborted at the call's deadline; without one
 * the call links its own controller to the signal.
 */
export interface TranscodedRequest extends UniversalServerRequest {
  readonly controller?: CallController;
  /** The route of its verb and URL, if already resolved. */
  readonly route?: Route | undefined;
}

/** The route that a request took. */
export interface TranscodedRoute {
  readonly method: DescMethodUnary;
  readonly binding: Binding;
}

/** A successful call, for choosing the status and the shape of its answer. */
export interface TranscodedCall extends TranscodedRoute {
  readonly response: Message;
  /** The body as the annotation defines it, written on demand. */
  json(): string;
}

export interface TranscoderOptions {
  /** The services and their implementations, as a ConnectRouter takes them. */
  readonly services: readonly { readonly service: DescService; readonly implementation: object }[];
  /** The interceptors of the RPC protocols, in the same order. */
  readonly interceptors?: Interceptor[];
  /** The types for google.protobuf.Any. */
  readonly registry?: Registry;
  /** The largest body in bytes, both as sent and uncompressed. */
  readonly readMaxBytes: number;
  /** The other limits of a body. */
  readonly bounds?: Partial<Omit<BodyBounds, 'maxBytes'>>;
  /**
   * Reads the field that is the body of a method faster than the general reader, as the whole
   * request message. Undefined where it cannot: the general reader decides.
   */
  readonly readQuickly?: (method: DescMethodUnary, body: DescField, bytes: Uint8Array) => Message | undefined;
  /** Called when the body is complete, before it is parsed. Throwing refuses the call. */
  readonly onBody?: (request: UniversalServerRequest) => void;
  /** Called when an incomplete body is refused. The answer waits for it. */
  readonly onRefusedBody?: (request: UniversalServerRequest) => Promise<void>;
  /** Called when the answer of a call that succeeded cannot be written as JSON. */
  readonly onWriteFailure?: (request: UniversalServerRequest, error: unknown) => void;
  /** The longest duration of a call in ms; `Connect-Timeout-Ms` may shorten it. */
  readonly timeoutMs: number;
  /** Aborts the signals of all calls. */
  readonly shutdownSignal?: AbortSignal;
  /** Whether a query parameter that names no field is ignored (default) or refused. */
  readonly unknownQuery?: 'ignore' | 'refuse';
  /** How the routes read their requests, beyond the annotations. */
  readonly rulesOf?: RulesOf;
  /**
   * Whether to refuse 32-bit numbers and floats as strings, which ProtoJSON allows. Default: true.
   */
  readonly strictNumbers?: boolean;
  /** Default: proto names, 64-bit integers and enums as numbers, implicit fields always written. */
  readonly write?: Partial<Omit<JsonWriteOptions, 'registry'>>;
  /**
   * Overrides the status, headers or body of an answer; 200 and the annotation's body otherwise.
   */
  readonly answer?: (call: TranscodedCall) => { status?: number; headers?: HeadersSource; body?: string };
  /**
   * Shapes an error answer. `route` is unset when the path or the verb was wrong. Default:
   * google.rpc.Status.
   */
  readonly failure?: (
    error: ConnectError,
    route?: TranscodedRoute,
  ) => { status: number; headers?: HeadersSource; body: string };
}
