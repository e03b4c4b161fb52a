import type { DescMethodUnary, DescService, Message, Registry } from '@bufbuild/protobuf';
import type { ConnectError, Interceptor } from '@connectrpc/connect';
import type { UniversalServerRequest } from '@connectrpc/connect/protocol';
import type { HeadersSource } from './answer.ts';
import type { Binding, RulesOf } from './binding.ts';
import type { BodyBounds } from './body.ts';
import type { JsonWriteOptions } from './json-writer.ts';

/** `controller`: of the signal, for the call to abort at its deadline; without one the call links its own to the signal. */
export interface TranscodedRequest extends UniversalServerRequest {
  readonly controller?: AbortController;
}

/** Which route a request took. */
export interface TranscodedRoute {
  readonly method: DescMethodUnary;
  readonly binding: Binding;
}

/** A call that succeeded: for choosing the status and the shape of its answer. */
export interface TranscodedCall extends TranscodedRoute {
  readonly response: Message;
  /** The body as the annotation has it; written when it is asked for. */
  json(): string;
}

export interface TranscoderOptions {
  /** A service and the object with its methods, as a ConnectRouter takes them. */
  readonly services: readonly { readonly service: DescService; readonly implementation: object }[];
  /** The same ones that the RPC protocols run, in the same order. */
  readonly interceptors?: Interceptor[];
  /** Types for google.protobuf.Any. */
  readonly registry?: Registry;
  /** Bytes of a body at most, as sent and unpacked. */
  readonly readMaxBytes: number;
  /** What else bounds a body. */
  readonly bounds?: Partial<Omit<BodyBounds, 'maxBytes'>>;
  /** Called when the body is whole, before it is parsed; what it throws refuses the call. */
  readonly onBody?: (request: UniversalServerRequest) => void;
  /** Called when a body is refused that has not ended: the answer waits for it. */
  readonly onRefusedBody?: (request: UniversalServerRequest) => Promise<void>;
  /** Milliseconds that a call may take; `Connect-Timeout-Ms` may shorten it. */
  readonly timeoutMs: number;
  /** Aborts the signals of all calls. */
  readonly shutdownSignal?: AbortSignal;
  /** Whether a query parameter that names no field is passed over (default) or refused. */
  readonly unknownQuery?: 'ignore' | 'refuse';
  /** How the routes read their requests, beyond what the annotations say. */
  readonly rulesOf?: RulesOf;
  /** Whether numbers of 32 bits and floats are refused when they are strings, which ProtoJSON takes. Default: true. */
  readonly strictNumbers?: boolean;
  /** Default: proto names, 64-bit integers and enums as numbers, fields without presence always. */
  readonly write?: Partial<Omit<JsonWriteOptions, 'registry'>>;
  /** Another status, more headers, or another body than 200 and the annotation's. */
  readonly answer?: (call: TranscodedCall) => { status?: number; headers?: HeadersSource; body?: string };
  /** What an error looks like; the route is known unless the path or the verb was at fault. Default: google.rpc.Status. */
  readonly failure?: (
    error: ConnectError,
    route?: TranscodedRoute,
  ) => { status: number; headers?: HeadersSource; body: string };
}
