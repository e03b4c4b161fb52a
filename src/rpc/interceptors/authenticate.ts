import type { DescMethod, DescService } from '@bufbuild/protobuf';
import type { Interceptor } from '@connectrpc/connect';
import { Health } from '../../../gen/grpc/health/v1/health_pb.ts';
import { ServerReflection } from '../../../gen/grpc/reflection/v1/reflection_pb.ts';
import { ServerReflection as ServerReflectionAlpha } from '../../../gen/grpc/reflection/v1alpha/reflection_pb.ts';
import { AdminService } from '../../../gen/sendbatch/v1/admin_service_pb.ts';
import { BatchService } from '../../../gen/sendbatch/v1/batch_service_pb.ts';
import { ChannelService } from '../../../gen/sendbatch/v1/channel_service_pb.ts';
import { KeyService } from '../../../gen/sendbatch/v1/key_service_pb.ts';
import { MessageService } from '../../../gen/sendbatch/v1/message_service_pb.ts';
import { ModerationService } from '../../../gen/sendbatch/v1/moderation_service_pb.ts';
import { TemplateService } from '../../../gen/sendbatch/v1/template_service_pb.ts';
import { WebhookService } from '../../../gen/sendbatch/v1/webhook_service_pb.ts';
import { keyMemoryMs } from '../../auth/api-keys.ts';
import type { Identify } from '../../auth/identity.ts';
import type { Caller, Scope } from '../../messages/caller.ts';
import { ServiceError } from '../../messages/service-error.ts';
import { requestContextOf } from '../request-context.ts';

/** The scope of each RPC; `any`: any valid credential. An RPC that is not listed needs `admin`. */
const messageScopes: Partial<Record<keyof typeof MessageService.method, Scope | 'any'>> = {
  sendBatch: 'send',
  send: 'send',
  broadcast: 'send',
  recallMessages: 'send',
  editMessage: 'send',
  listMessages: 'read',
  syncMessages: 'read',
  getMessages: 'read',
  getMessage: 'read',
  getMaxMessageSeq: 'read',
  listReaders: 'read',
  subscribe: 'read',
  listConversations: 'read',
  syncConversations: 'read',
  markRead: 'read',
  syncCommands: 'read',
  ackCommands: 'read',
  getRoute: 'any',
  getServerInfo: 'any',
};

/** Services about the server: probes send no credential, and reflection takes any. */
const scopesOfServices: Readonly<Record<string, 'any' | 'none'>> = {
  [Health.typeName]: 'none',
  [ServerReflection.typeName]: 'any',
  [ServerReflectionAlpha.typeName]: 'any',
};

/** The scope that an RPC needs; `none`: no credential either. */
export function scopeOf(method: DescMethod): Scope | 'any' | 'none' {
  const ofService = scopesOfServices[method.parent.typeName];
  if (ofService !== undefined) return ofService;
  if (method.parent.typeName === BatchService.typeName) return 'send';
  if (method.parent.typeName !== MessageService.typeName) return 'admin';
  return messageScopes[method.localName as keyof typeof MessageService.method] ?? 'admin';
}

/** The services whose RPCs `scopeOf` knows; a test walks them. */
export const guardedServices: readonly DescService[] = [
  MessageService,
  ChannelService,
  ModerationService,
  TemplateService,
  BatchService,
  WebhookService,
  KeyService,
  AdminService,
];

/** Throws SCOPE_MISSING (403) unless the caller has the scope; `what` is named in the error. */
export function assertScope(caller: Caller, scope: Scope, what: string): void {
  if (caller.scopes.has(scope)) return;
  throw new ServiceError({
    reason: 'SCOPE_MISSING',
    message: `${what} needs the scope ${scope}; this credential has ${[...caller.scopes].join(', ') || 'none'}`,
    metadata: { scope },
  });
}

/**
 * Refuses callers without the scope of the RPC that the body selected: two RPCs may share a JSON
 * path. The caller was identified from the headers (server/admission.ts); a call that bypassed that
 * is a defect and is refused. A caller with a slow body is identified again: its credential may
 * have ended meanwhile. `identify` unset: no credential is required.
 */
export function scopeInterceptor(identify: Identify | undefined): Interceptor {
  return (next) => (request) => {
    const scope = scopeOf(request.method);
    if (identify === undefined || scope === 'none') return next(request);
    const context = requestContextOf(request.contextValues);
    if (!context.isAdmitted) throw new Error(`${request.method.name} was called before its caller was known`);
    const checked = () => {
      if (scope !== 'any') assertScope(context.caller, scope, request.method.name);
      return next(request);
    };
    if (request.stream || performance.now() - context.admittedAt < keyMemoryMs) return checked();
    return identify(context.header, context.certificate).then((caller) => {
      context.caller = caller;
      return checked();
    });
  };
}
