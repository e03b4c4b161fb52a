import type { DescMethod, DescService } from '@bufbuild/protobuf';
import type { ConnectRouter, ConnectRouterOptions, Interceptor, MethodImpl, ServiceImpl } from '@connectrpc/connect';
import { type Compression, createMethodUrl } from '@connectrpc/connect/protocol';
import { compressionGzip } from '@connectrpc/connect-node';
import { file_google_rpc_error_details } from '../../gen/google/rpc/error_details_pb.ts';
import { Health } from '../../gen/grpc/health/v1/health_pb.ts';
import { ServerReflection } from '../../gen/grpc/reflection/v1/reflection_pb.ts';
import { ServerReflection as ServerReflectionAlpha } from '../../gen/grpc/reflection/v1alpha/reflection_pb.ts';
import { BatchService } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { ChannelService } from '../../gen/sendbatch/v1/channel_service_pb.ts';
import { MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { ModerationService } from '../../gen/sendbatch/v1/moderation_service_pb.ts';
import { TemplateService } from '../../gen/sendbatch/v1/template_service_pb.ts';
import { WebhookService } from '../../gen/sendbatch/v1/webhook_service_pb.ts';
import type { Identify } from '../auth/identity.ts';
import { limits } from '../limits.ts';
import type { Events } from '../observability/events/index.ts';
import type { Readiness } from '../postgres/readiness.ts';
import { detailRegistry } from '../rpc/error-mapping.ts';
import { scopeInterceptor } from '../rpc/interceptors/authenticate.ts';
import { callInterceptor, deadlineInterceptor } from '../rpc/interceptors/call-log.ts';
import { validateInterceptor } from '../rpc/interceptors/validate.ts';
import { alwaysWritten, legacyAnswer, legacyFailure, legacySenderInterceptor, rulesOf } from '../rpc/legacy.ts';
import { entryKey, type Request, rejectedRequestOf } from '../rpc/request-context.ts';
import { type BatchServiceParts, createBatchService } from '../rpc/services/batch-service.ts';
import { type ChannelServiceParts, createChannelService } from '../rpc/services/channel-service.ts';
import { createHealthService } from '../rpc/services/health.ts';
import { createMessageService, type MessageServiceParts } from '../rpc/services/message-service.ts';
import { createModerationService, type ModerationServiceParts } from '../rpc/services/moderation-service.ts';
import { createReflectionService } from '../rpc/services/reflection.ts';
import { createTemplateService, type TemplateServiceParts } from '../rpc/services/template-service.ts';
import { createWebhookService, type WebhookServiceParts } from '../rpc/services/webhook-service.ts';
import {
  concurrentDecompressions,
  createTranscoder,
  type Transcoder,
  withConcurrencyLimit,
} from '../transcode/index.ts';
import { createAdmission } from './admission.ts';
import { wasEvicted } from './body-budget.ts';
import { createDocs } from './docs/docs.ts';
import { discard } from './early-answer.ts';
import { createUnaryGrpc } from './grpc-unary.ts';
import { jsonOptionsOf } from './json-options.ts';
import { bodyIsWhole } from './load-shedding.ts';
import { createMetricsEndpoint, type MetricsParts } from './metrics-endpoint.ts';
import { createNdjson, isNdjson } from './ndjson.ts';
import { createProbes } from './probes.ts';
import { queryInterceptor } from './query-parameters.ts';
import { bodyBounds, requestBodyInterceptor } from './request-body.ts';
import { createEventStream, streamedBy } from './sse.ts';

/** All RPCs and all interceptors, for every protocol: what a call passes is on this screen. */
export interface Routes {
  /** gRPC, gRPC-Web and Connect. */
  readonly routes: (router: ConnectRouter) => void;
  readonly options: ConnectRouterOptions;
  /** The plain case of gRPC by a shorter way; false: the call is not one. */
  readonly unaryGrpc: ReturnType<typeof createUnaryGrpc>;
  /** What load balancers ask; false: the request is for somebody else. Not for the guard: it goes before it. */
  readonly probes: ReturnType<typeof createProbes>;
  /** The pages about the API; false: the request is for somebody else. */
  readonly docs: ReturnType<typeof createDocs>;
  /** The live tail as Server-Sent Events; false: the request is for somebody else. */
  readonly eventStream: ReturnType<typeof createEventStream>;
  /** What Prometheus scrapes; false: the request is for somebody else. */
  readonly metrics: ReturnType<typeof createMetricsEndpoint>;
  /** Decides about the credential before the body is read. */
  readonly admission: ReturnType<typeof createAdmission>;
  /** Told of requests that become no call. */
  readonly requestRejected: Events['requestRejected'];
  /** Batches as NDJSON; false: the request is for somebody else. */
  readonly ndjson: ReturnType<typeof createNdjson>;
  /** The RPC that a request is for, without looking at its body; undefined: none. */
  readonly methodOf: (request: Request) => DescMethod | undefined;
  /** Whether a request's body is taken as it comes, when its caller is known: any other is held as a whole. */
  readonly isStream: (request: Request) => boolean;
  /** The JSON routes of the google.api.http annotations. */
  readonly transcoder: Transcoder;
}

/** Answers below this many bytes are not packed: an answer to 100 messages has 4 KB, and gzip took a third of its call's CPU (measured). */
const compressMinBytes = 64 * 1024;

const gzip: Compression = {
  ...compressionGzip,
  decompress: withConcurrencyLimit(concurrentDecompressions, compressionGzip.decompress),
};

/** What all services are made of. */
export type Parts = MessageServiceParts &
  ChannelServiceParts &
  ModerationServiceParts &
  TemplateServiceParts &
  BatchServiceParts &
  WebhookServiceParts & {
    /** Unset: nobody is asked for a credential. */
    readonly identify: Identify | undefined;
    readonly readiness: Readiness;
    /** Aborted when the service stops: streams that have no end of their own end. */
    readonly closing: AbortSignal;
    readonly metrics: Omit<MetricsParts, 'onError'>;
  };

/** By an RPC's path, by the event stream's, by a JSON route's. */
function createMethodOf(services: readonly { service: DescService }[], { methodOf }: Transcoder): Routes['methodOf'] {
  const byPath = new Map<string, DescMethod>();
  for (const { service } of services)
    for (const method of service.methods) byPath.set(createMethodUrl('/', method), method);
  return ({ method = 'GET', url = '/' }) => {
    const known = byPath.get(url.split('?', 1)[0] ?? '');
    if (known !== undefined) return known;
    try {
      return streamedBy(url) ?? methodOf(method, url);
    } catch {
      // A path that no route can read: its own refusal says why.
      return undefined;
    }
  };
}

export function createRoutes(parts: Parts, events: Events): Routes {
  // Whatever stands below is in the health list and in reflection, and its JSON routes in /openapi.json.
  const served = () => services.map(({ service }) => service);
  const reflection = createReflectionService(served, [file_google_rpc_error_details], parts.closing);
  const batchService = createBatchService(parts);
  const services = [
    { service: MessageService, implementation: createMessageService(parts) },
    { service: ChannelService, implementation: createChannelService(parts) },
    { service: ModerationService, implementation: createModerationService(parts) },
    { service: TemplateService, implementation: createTemplateService(parts) },
    { service: BatchService, implementation: batchService },
    { service: WebhookService, implementation: createWebhookService(parts) },
    { service: Health, implementation: createHealthService(parts.readiness, served) },
    { service: ServerReflection, implementation: reflection },
    // The same under its older name, in which its messages are the same but for theirs.
    {
      service: ServerReflectionAlpha,
      implementation: reflection as unknown as ServiceImpl<typeof ServerReflectionAlpha>,
    },
  ] as const;
  // From the outside in.
  const interceptors: Interceptor[] = [
    requestBodyInterceptor,
    callInterceptor(events),
    deadlineInterceptor(parts.requestTimeoutMs),
    scopeInterceptor(parts.identify !== undefined),
    queryInterceptor,
    legacySenderInterceptor,
    validateInterceptor(),
  ];
  const transcoder = createTranscoder({
    services,
    interceptors,
    registry: detailRegistry,
    readMaxBytes: limits.requestBytes,
    bounds: bodyBounds,
    onBody: ({ contextValues }) => {
      const request = contextValues?.get(entryKey).request;
      if (request !== undefined) bodyIsWhole(request);
    },
    async onRefusedBody({ contextValues }) {
      const request = contextValues?.get(entryKey).request;
      if (request !== undefined) await discard(request);
    },
    timeoutMs: parts.requestTimeoutMs,
    unknownQuery: 'refuse',
    rulesOf,
    write: { alwaysImplicit: alwaysWritten },
    answer: legacyAnswer,
    failure: legacyFailure,
  });
  const methodOf = createMethodOf(services, transcoder);
  return {
    routes(router) {
      for (const { service, implementation } of services) {
        const methods = implementation as unknown as Record<string, (...args: unknown[]) => unknown>;
        for (const method of (service as DescService).methods) {
          const call = methods[method.localName]?.bind(implementation);
          if (call === undefined) throw new Error(`${method.toString()} has no implementation`);
          const jsonOptions = jsonOptionsOf(method.input, transcoder.check);
          router.rpc(method, call as MethodImpl<DescMethod>, { jsonOptions });
        }
      }
    },
    options: {
      interceptors,
      readMaxBytes: limits.requestBytes,
      compressMinBytes,
      acceptCompression: [gzip],
      jsonOptions: { registry: detailRegistry },
    },
    unaryGrpc: createUnaryGrpc({
      services,
      interceptors,
      readMaxBytes: limits.requestBytes,
      compressMinBytes,
      compression: gzip,
      onMalformed: (request) => wasEvicted(request) || events.requestRejected('malformed', rejectedRequestOf(request)),
    }),
    transcoder,
    probes: createProbes(parts.readiness),
    docs: createDocs({
      version: parts.version,
      needsCredential: parts.identify !== undefined,
      bindings: transcoder.bindings,
    }),
    ndjson: createNdjson({ implementation: batchService, interceptors, transcoder }),
    eventStream: createEventStream({ ...parts, events, writeJson: transcoder.write }),
    metrics: createMetricsEndpoint({ ...parts.metrics, onError: events.metricsFailed }),
    admission: createAdmission({
      identify: parts.identify,
      requestTimeoutMs: parts.requestTimeoutMs,
      // Event streams have no body, and may carry their token in the query: they ask by themselves.
      methodOf: (request) => (streamedBy(request.url ?? '') === undefined ? methodOf(request) : undefined),
      events,
    }),
    requestRejected: events.requestRejected,
    methodOf,
    isStream: (request) => isNdjson(request) || methodOf(request) === BatchService.method.submitBatchStream,
  };
}
