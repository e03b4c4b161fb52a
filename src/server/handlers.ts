// The handlers of the port: one per protocol, form or page, for dispatch.ts.
//
// A handler that returns false leaves the request to the next one. All of them run the services and
// the interceptors of rpc/routes.ts.
import type { DescField, DescMethod, Message } from '@bufbuild/protobuf';
import type { ConnectRouter, ConnectRouterOptions, MethodImpl } from '@connectrpc/connect';
import { type Compression, createMethodUrl } from '@connectrpc/connect/protocol';
import { compressionGzip } from '@connectrpc/connect-node';
import { BatchService } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { limits } from '../limits.ts';
import type { Events, Protocol } from '../observability/events/index.ts';
import { detailRegistry } from '../rpc/error-mapping.ts';
import { alwaysWritten, legacyAnswer, legacyFailure, rulesOf } from '../rpc/legacy.ts';
import { decodePlainJson } from '../rpc/plain-batch/index.ts';
import { type Request, RequestContext, rejectedRequestOf, requestContextOf } from '../rpc/request-context.ts';
import { createInterceptors, createServices, type ServedService, type ServiceParts } from '../rpc/routes.ts';
import {
  concurrentDecompressions,
  createTranscoder,
  type Transcoder,
  withConcurrencyLimit,
} from '../transcode/index.ts';
import { createAdmission } from './admission.ts';
import { createConsole, isConsolePath } from './console/console.ts';
import { createDocs, docsPaths } from './docs/docs.ts';
import { discard } from './early-answer.ts';
import { createUnaryGrpc } from './grpc-unary.ts';
import { jsonOptionsOf } from './json-options.ts';
import { createMetricsEndpoint, type MetricsParts, metricsPath } from './metrics-endpoint.ts';
import { createNdjson, isNdjson } from './ndjson.ts';
import { createProbes, probePaths } from './probes.ts';
import { bodyBounds } from './request-body.ts';
import { createServerStreams } from './server-streams.ts';
import { createSse, sseMethodOf } from './sse.ts';

/** What the handlers need. */
export type HandlerParts = ServiceParts & {
  /** Whether the console is served. */
  readonly console: boolean;
  readonly metrics: Omit<MetricsParts, 'onError'>;
};

export interface Handlers {
  /** Resolves a request: its protocol, its RPC, its JSON route. */
  readonly contextOf: (request: Request) => RequestContext;
  /** Decides about the credential before the body is read. */
  readonly admission: ReturnType<typeof createAdmission>;
  /** Probes. Not subject to the origin check: dispatch runs them before it. */
  readonly probes: ReturnType<typeof createProbes>;
  /** Plain unary gRPC, on the HTTP/2 stream itself. */
  readonly unaryGrpc: ReturnType<typeof createUnaryGrpc>;
  /** Server-streaming RPCs, whose answers Connect does not write. */
  readonly serverStreams: ReturnType<typeof createServerStreams>;
  /** Registers gRPC, gRPC-Web and Connect. */
  readonly register: (router: ConnectRouter) => void;
  readonly routerOptions: ConnectRouterOptions;
  /** The JSON routes of the google.api.http annotations. */
  readonly transcoder: Transcoder;
  /** Batches as NDJSON. */
  readonly ndjson: ReturnType<typeof createNdjson>;
  /** Streams as Server-Sent Events. */
  readonly sse: ReturnType<typeof createSse>;
  /** The metrics for Prometheus. */
  readonly metrics: ReturnType<typeof createMetricsEndpoint>;
  /** The pages about the API. */
  readonly docs: ReturnType<typeof createDocs>;
  /** The console; undefined where CONSOLE is off. */
  readonly console: ReturnType<typeof createConsole> | undefined;
  /** Whether a path that no RPC and no JSON route has can be read: by GET and HEAD. */
  readonly isReadable: (context: RequestContext) => boolean;
  /** Whether a body is processed as it arrives; all others are held as a whole. */
  readonly isStream: (context: RequestContext) => boolean;
  /** Called for a request that does not become a call. */
  readonly requestRejected: Events['requestRejected'];
}

/** Smaller answers are not compressed: 100 results have 4 KB, and gzip took a third of the CPU. */
const compressMinBytes = 64 * 1024;

const gzip: Compression = {
  ...compressionGzip,
  decompress: withConcurrencyLimit(concurrentDecompressions, compressionGzip.decompress),
};

/** Reads a batch of plain messages on the JSON array route. */
function readPlain(method: DescMethod, body: DescField, bytes: Uint8Array): Message | undefined {
  if (method !== MessageService.method.sendBatch || body.localName !== 'messages') return undefined;
  return decodePlainJson(bytes);
}

export function createHandlers(parts: HandlerParts, events: Events): Handlers {
  const { services, batchService } = createServices(parts);
  const interceptors = createInterceptors(parts, services, events);
  const transcoder = createTranscoder({
    services,
    interceptors,
    registry: detailRegistry,
    readMaxBytes: limits.requestBytes,
    bounds: bodyBounds,
    readQuickly: readPlain,
    onBody({ contextValues }) {
      if (contextValues !== undefined) requestContextOf(contextValues).bodyComplete();
    },
    async onRefusedBody({ contextValues }) {
      if (contextValues !== undefined) await discard(requestContextOf(contextValues).request);
    },
    onWriteFailure({ contextValues }, error) {
      if (contextValues !== undefined) events.answerFailed(callOf(requestContextOf(contextValues)), error);
    },
    timeoutMs: parts.requestTimeoutMs,
    unknownQuery: 'refuse',
    rulesOf,
    write: { alwaysImplicit: alwaysWritten },
    answer: legacyAnswer,
    failure: legacyFailure,
  });
  const { identify, requestTimeoutMs, version } = parts;
  return {
    contextOf: createContextOf(services, transcoder),
    admission: createAdmission({ identify, requestTimeoutMs, events }),
    probes: createProbes(parts.readiness),
    unaryGrpc: createUnaryGrpc({
      services,
      interceptors,
      readMaxBytes: limits.requestBytes,
      compressMinBytes,
      compression: gzip,
      onMalformed: (context) => {
        if (!context.isEvicted) events.requestRejected('malformed', rejectedRequestOf(context));
      },
    }),
    serverStreams: createServerStreams({
      services,
      interceptors,
      readMaxBytes: limits.requestBytes,
      compressMinBytes,
      compression: gzip,
    }),
    register: (router) => register(router, services, transcoder),
    routerOptions: {
      interceptors,
      readMaxBytes: limits.requestBytes,
      compressMinBytes,
      acceptCompression: [gzip],
      jsonOptions: { registry: detailRegistry },
    },
    transcoder,
    ndjson: createNdjson({ implementation: batchService, interceptors, transcoder }),
    sse: createSse({ ...parts, events, writeJson: transcoder.write }),
    metrics: createMetricsEndpoint({ ...parts.metrics, onError: events.metricsFailed }),
    docs: createDocs({
      version,
      hasConsole: parts.console,
      needsCredential: identify !== undefined,
      bindings: transcoder.bindings,
    }),
    console: parts.console ? createConsole() : undefined,
    isReadable: ({ request, protocol }) => {
      const [path = ''] = (request.url ?? '').split('?', 1);
      return (
        protocol === 'sse' ||
        path === metricsPath ||
        probePaths.has(path) ||
        docsPaths.has(path) ||
        (parts.console && isConsolePath(path))
      );
    },
    isStream: ({ request, method }) => isNdjson(request) || method === BatchService.method.submitBatchStream,
    requestRejected: events.requestRejected,
  };
}

function callOf({ requestId, method, protocol }: RequestContext) {
  return { requestId, protocol, method: method === undefined ? '' : `${method.parent.typeName}/${method.name}` };
}

function register(router: ConnectRouter, services: readonly ServedService[], { check }: Transcoder): void {
  for (const { service, implementation } of services) {
    const methods = implementation as Record<string, (...args: unknown[]) => unknown>;
    for (const method of service.methods) {
      const call = methods[method.localName]?.bind(implementation);
      if (call === undefined) throw new Error(`${method.toString()} has no implementation`);
      router.rpc(method, call as MethodImpl<DescMethod>, { jsonOptions: jsonOptionsOf(method.input, check) });
    }
  }
}

/** Resolves requests: by an RPC's path, then an event stream's, then a JSON route's. */
function createContextOf(
  services: readonly ServedService[],
  { routeOf }: Transcoder,
): (request: Request) => RequestContext {
  const rpcs = new Map<string, DescMethod>();
  for (const { service } of services)
    for (const method of service.methods) rpcs.set(createMethodUrl('/', method), method);
  return (request) => {
    const { method: verb = 'GET', url = '/' } = request;
    const rpc = rpcs.get(url) ?? rpcs.get(url.split('?', 1)[0] ?? '');
    if (rpc !== undefined) {
      const protocol = rpcProtocolOf(request.headers['content-type']);
      return new RequestContext(request, { protocol, method: rpc, route: undefined });
    }
    const streamed = sseMethodOf(url);
    if (streamed !== undefined)
      return new RequestContext(request, { protocol: 'sse', method: streamed, route: undefined });
    let route: ReturnType<typeof routeOf>;
    try {
      route = routeOf(verb, url);
    } catch {
      // An undecodable path: the transcoder refuses it with the cause.
    }
    const method = route !== undefined && 'bindings' in route ? route.bindings[0]?.method : undefined;
    return new RequestContext(request, { protocol: 'json', method, route });
  };
}

/** The protocol of an RPC path, by the content type, as Connect decides it. */
function rpcProtocolOf(type = ''): Protocol {
  if (!type.startsWith('application/grpc')) return 'connect';
  return type.startsWith('application/grpc-web') ? 'grpc-web' : 'grpc';
}
