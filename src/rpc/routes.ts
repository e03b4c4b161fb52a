// The RPCs of the service and what each call passes.
//
// `createServices` lists the services: whatever is in the list is served on every protocol, and is
// in the health list, in reflection, and with its JSON routes in /openapi.json.
// `createInterceptors` lists the interceptors, outermost first. The handlers of the port are in
// server/handlers.ts. Invariants:
//  1. All protocols run the same interceptors in the same order, then the same implementation.
//  2. A thrown value becomes an error in one place, the outermost interceptor of a call
//     (interceptors/call-log.ts), by one table (error-mapping.ts). A 403 comes from that table,
//     also where server/admission.ts checks the scope by the headers, or from
//     server/origin-check.ts (web pages).
import type { DescService } from '@bufbuild/protobuf';
import type { Interceptor, ServiceImpl } from '@connectrpc/connect';
import { file_google_rpc_error_details } from '../../gen/google/rpc/error_details_pb.ts';
import { Health } from '../../gen/grpc/health/v1/health_pb.ts';
import { ServerReflection } from '../../gen/grpc/reflection/v1/reflection_pb.ts';
import { ServerReflection as ServerReflectionAlpha } from '../../gen/grpc/reflection/v1alpha/reflection_pb.ts';
import { AdminService } from '../../gen/sendbatch/v1/admin_service_pb.ts';
import { BatchService } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { ChannelService } from '../../gen/sendbatch/v1/channel_service_pb.ts';
import { KeyService } from '../../gen/sendbatch/v1/key_service_pb.ts';
import { MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { ModerationService } from '../../gen/sendbatch/v1/moderation_service_pb.ts';
import { TemplateService } from '../../gen/sendbatch/v1/template_service_pb.ts';
import { WebhookService } from '../../gen/sendbatch/v1/webhook_service_pb.ts';
import type { Identify } from '../auth/identity.ts';
import type { Events } from '../observability/events/index.ts';
import type { Readiness } from '../postgres/readiness.ts';
import { scopeInterceptor } from './interceptors/authenticate.ts';
import { callInterceptor } from './interceptors/call-log.ts';
import { deadlineInterceptor } from './interceptors/deadline.ts';
import { parsedMessagesInterceptor } from './interceptors/parsed-messages.ts';
import { queryInterceptor } from './interceptors/query-parameters.ts';
import { validateInterceptor } from './interceptors/validate.ts';
import { legacySenderInterceptor } from './legacy.ts';
import { type AdminServiceParts, createAdminService } from './services/admin-service.ts';
import { type BatchServiceParts, createBatchService } from './services/batch-service.ts';
import { type ChannelServiceParts, createChannelService } from './services/channel-service.ts';
import { createHealthService } from './services/health.ts';
import { createKeyService, type KeyServiceParts } from './services/key-service.ts';
import { createMessageService, type MessageServiceParts } from './services/message-service.ts';
import { createModerationService, type ModerationServiceParts } from './services/moderation-service.ts';
import { createReflectionService } from './services/reflection.ts';
import { createTemplateService, type TemplateServiceParts } from './services/template-service.ts';
import { createWebhookService, type WebhookServiceParts } from './services/webhook-service.ts';

/** What the services need. */
export type ServiceParts = MessageServiceParts &
  ChannelServiceParts &
  ModerationServiceParts &
  TemplateServiceParts &
  BatchServiceParts &
  WebhookServiceParts &
  KeyServiceParts &
  AdminServiceParts & {
    /** Unset: no credential is required. */
    readonly identify: Identify | undefined;
    readonly readiness: Readiness;
    /** Aborted when the service stops: ends streams that have no end of their own. */
    readonly closing: AbortSignal;
  };

/** A service and its implementation. */
export interface ServedService {
  readonly service: DescService;
  readonly implementation: object;
}

/** All services, and the one whose stream also has an NDJSON form. */
export function createServices(parts: ServiceParts): {
  readonly services: readonly ServedService[];
  readonly batchService: ServiceImpl<typeof BatchService>;
} {
  const served = () => services.map(({ service }) => service);
  const reflection = createReflectionService(served, [file_google_rpc_error_details], parts);
  const batchService = createBatchService(parts);
  const services: readonly ServedService[] = [
    { service: MessageService, implementation: createMessageService(parts) },
    { service: ChannelService, implementation: createChannelService(parts) },
    { service: ModerationService, implementation: createModerationService(parts) },
    { service: TemplateService, implementation: createTemplateService(parts) },
    { service: BatchService, implementation: batchService },
    { service: WebhookService, implementation: createWebhookService(parts) },
    { service: KeyService, implementation: createKeyService(parts) },
    { service: AdminService, implementation: createAdminService(parts) },
    { service: Health, implementation: createHealthService(parts.readiness, served) },
    { service: ServerReflection, implementation: reflection },
    // The older version differs in its name only.
    { service: ServerReflectionAlpha, implementation: reflection },
  ];
  return { services, batchService };
}

/** The interceptors of every call, outermost first. */
export function createInterceptors(
  { identify, requestTimeoutMs }: Pick<ServiceParts, 'identify' | 'requestTimeoutMs'>,
  services: readonly ServedService[],
  events: Events,
): Interceptor[] {
  return [
    parsedMessagesInterceptor,
    callInterceptor(events),
    deadlineInterceptor(requestTimeoutMs),
    scopeInterceptor(identify),
    queryInterceptor,
    legacySenderInterceptor,
    validateInterceptor(services.flatMap(({ service }) => service.methods.map(({ input }) => input))),
  ];
}
