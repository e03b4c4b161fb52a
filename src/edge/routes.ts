import type { ConnectRouter, ConnectRouterOptions, Interceptor } from '@connectrpc/connect';
import { compressionGzip } from '@connectrpc/connect-node';
import { BatchService } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { ChannelService } from '../../gen/sendbatch/v1/channel_service_pb.ts';
import { MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { ModerationService } from '../../gen/sendbatch/v1/moderation_service_pb.ts';
import { TemplateService } from '../../gen/sendbatch/v1/template_service_pb.ts';
import type { Events } from '../events.ts';
import { limits } from '../limits.ts';
import { createTranscoder, type Transcoder } from '../transcode/index.ts';
import { authenticateInterceptor } from './authenticate.ts';
import { type BatchServiceParts, createBatchService } from './batch-service.ts';
import { callInterceptor, deadlineInterceptor } from './calls.ts';
import { type ChannelServiceParts, createChannelService } from './channel-service.ts';
import { createEventStream } from './events.ts';
import { detailRegistry } from './failures.ts';
import type { Identify } from './identity.ts';
import { legacyAnswer, legacyFailure, legacySenderInterceptor } from './legacy.ts';
import { createMessageService, type MessageServiceParts } from './message-service.ts';
import { createMetricsRoute, type MetricsParts } from './metrics.ts';
import { createModerationService, type ModerationServiceParts } from './moderation-service.ts';
import { createNdjson } from './ndjson.ts';
import { createTemplateService, type TemplateServiceParts } from './template-service.ts';
import { createUnaryGrpc } from './unary-grpc.ts';
import { validateInterceptor } from './validate.ts';

/** All RPCs and all interceptors, for every protocol: what a call passes is on this screen. */
export interface Routes {
  /** gRPC, gRPC-Web and Connect. */
  readonly routes: (router: ConnectRouter) => void;
  readonly options: ConnectRouterOptions;
  /** The plain case of gRPC by a shorter way; false: the call is not one. */
  readonly unaryGrpc: ReturnType<typeof createUnaryGrpc>;
  /** The live tail as Server-Sent Events; false: the request is for somebody else. */
  readonly eventStream: ReturnType<typeof createEventStream>;
  /** What Prometheus scrapes; false: the request is for somebody else. */
  readonly metrics: ReturnType<typeof createMetricsRoute>;
  /** Told of requests that become no call. */
  readonly requestRejected: Events['requestRejected'];
  /** Batches as NDJSON; false: the request is for somebody else. */
  readonly ndjson: ReturnType<typeof createNdjson>;
  /** The JSON routes of the google.api.http annotations. */
  readonly transcoder: Transcoder;
}

/** Answers below this many bytes are not packed: an answer to 100 messages has 4 KB, and gzip took a third of its call's CPU (measured). */
const compressMinBytes = 64 * 1024;

/** What all services are made of. */
export type Parts = MessageServiceParts &
  ChannelServiceParts &
  ModerationServiceParts &
  TemplateServiceParts &
  BatchServiceParts & {
    /** Unset: nobody is asked for a credential. */
    readonly identify: Identify | undefined;
    readonly metrics: Omit<MetricsParts, 'onError'>;
  };

export function createRoutes(parts: Parts, events: Events): Routes {
  const batchService = createBatchService(parts);
  const services = [
    { service: MessageService, implementation: createMessageService(parts) },
    { service: ChannelService, implementation: createChannelService(parts) },
    { service: ModerationService, implementation: createModerationService(parts) },
    { service: TemplateService, implementation: createTemplateService(parts) },
    { service: BatchService, implementation: batchService },
  ] as const;
  // From the outside in.
  const interceptors: Interceptor[] = [
    callInterceptor(events),
    deadlineInterceptor(parts.requestTimeoutMs),
    authenticateInterceptor(parts.identify),
    legacySenderInterceptor,
    validateInterceptor(),
  ];
  const transcoder = createTranscoder({
    services,
    interceptors,
    registry: detailRegistry,
    readMaxBytes: limits.requestBytes,
    timeoutMs: parts.requestTimeoutMs,
    // The documented answer has three fields.
    write: { alwaysImplicit: (field) => field.name !== 'duplicate' },
    answer: legacyAnswer,
    failure: legacyFailure,
  });
  return {
    routes(router) {
      const [messages, channels, moderation, templates, batches] = services;
      router.service(messages.service, messages.implementation);
      router.service(channels.service, channels.implementation);
      router.service(moderation.service, moderation.implementation);
      router.service(templates.service, templates.implementation);
      router.service(batches.service, batches.implementation);
    },
    options: {
      interceptors,
      readMaxBytes: limits.requestBytes,
      compressMinBytes,
      acceptCompression: [compressionGzip],
      // A field that this version does not know is refused, not dropped: a `send_at` that is ignored is a message sent now.
      jsonOptions: { ignoreUnknownFields: false, registry: detailRegistry },
    },
    unaryGrpc: createUnaryGrpc({
      services,
      interceptors,
      readMaxBytes: limits.requestBytes,
      compressMinBytes,
      compression: compressionGzip,
      onMalformed: () => events.requestRejected('malformed'),
    }),
    transcoder,
    ndjson: createNdjson({ implementation: batchService, interceptors, transcoder }),
    eventStream: createEventStream({ ...parts, events, writeJson: transcoder.write }),
    metrics: createMetricsRoute({ ...parts.metrics, onError: events.metricsFailed }),
    requestRejected: events.requestRejected,
  };
}
