import type { DescMethod, DescService } from '@bufbuild/protobuf';
import type { ConnectRouter, ConnectRouterOptions, Interceptor } from '@connectrpc/connect';
import { createMethodUrl } from '@connectrpc/connect/protocol';
import { compressionGzip } from '@connectrpc/connect-node';
import { ChannelService } from '../../gen/sendbatch/v1/channel_service_pb.ts';
import { MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { ModerationService } from '../../gen/sendbatch/v1/moderation_service_pb.ts';
import { TemplateService } from '../../gen/sendbatch/v1/template_service_pb.ts';
import type { Events } from '../events.ts';
import { limits } from '../limits.ts';
import { createTranscoder, type Transcoder } from '../transcode/index.ts';
import { authenticateInterceptor } from './authenticate.ts';
import { callInterceptor, deadlineInterceptor } from './calls.ts';
import { type ChannelServiceParts, createChannelService } from './channel-service.ts';
import { createEventStream, isEventStream } from './events.ts';
import type { Request } from './exchange.ts';
import { detailRegistry } from './failures.ts';
import type { Identify } from './identity.ts';
import { legacyAnswer, legacyFailure, legacySenderInterceptor } from './legacy.ts';
import { createMessageService, type MessageServiceParts } from './message-service.ts';
import { createModerationService, type ModerationServiceParts } from './moderation-service.ts';
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
  /** The RPC that a request is for, without looking at its body; undefined: none. */
  readonly methodOf: (request: Request) => DescMethod | undefined;
  /** The JSON routes of the google.api.http annotations. */
  readonly transcoder: Transcoder;
}

/** Answers below this many bytes are not packed: an answer to 100 messages has 4 KB, and gzip took a third of its call's CPU (measured). */
const compressMinBytes = 64 * 1024;

/** What all services are made of. */
export type Parts = MessageServiceParts &
  ChannelServiceParts &
  ModerationServiceParts &
  TemplateServiceParts & {
    /** Unset: nobody is asked for a credential. */
    readonly identify: Identify | undefined;
  };

/** By an RPC's path, by the event stream's, by a JSON route's. */
function createMethodOf(services: readonly { service: DescService }[], { methodOf }: Transcoder): Routes['methodOf'] {
  const byPath = new Map<string, DescMethod>();
  for (const { service } of services)
    for (const method of service.methods) byPath.set(createMethodUrl('/', method), method);
  return ({ method = 'GET', url = '/' }) => {
    const known = byPath.get(url.split('?', 1)[0] ?? '');
    if (known !== undefined) return known;
    if (isEventStream(url)) return MessageService.method.subscribe;
    try {
      return methodOf(method, url);
    } catch {
      // A path that no route can read: its own refusal says why.
      return undefined;
    }
  };
}

export function createRoutes(parts: Parts, events: Events): Routes {
  const services = [
    { service: MessageService, implementation: createMessageService(parts) },
    { service: ChannelService, implementation: createChannelService(parts) },
    { service: ModerationService, implementation: createModerationService(parts) },
    { service: TemplateService, implementation: createTemplateService(parts) },
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
      const [messages, channels, moderation, templates] = services;
      router.service(messages.service, messages.implementation);
      router.service(channels.service, channels.implementation);
      router.service(moderation.service, moderation.implementation);
      router.service(templates.service, templates.implementation);
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
    }),
    transcoder,
    methodOf: createMethodOf(services, transcoder),
    eventStream: createEventStream({ ...parts, writeJson: transcoder.write }),
  };
}
