import { create, type DescMessage, type Message } from '@bufbuild/protobuf';
import { type Path, pathToString } from '@bufbuild/protobuf/reflect';
import { createValidator, type Violation as RuleViolation } from '@bufbuild/protovalidate';
import type { Interceptor } from '@connectrpc/connect';
import {
  MessageService,
  type SendBatchRequest,
  SendBatchRequestSchema,
} from '../../gen/sendbatch/v1/message_service_pb.ts';
import { type Failure, malformed, type Reason, type Violation } from '../domain/failure.ts';
import { limits } from '../limits.ts';
import { plainlyValid } from './quick-check.ts';

const validator = createValidator();

/** Rules, by field and rule id, whose breach has a reason of its own; the breach of any other is INVALID_FIELD. */
const sizes: Record<string, { reason: Reason; limit: number }> = {
  'messages repeated.min_items': { reason: 'EMPTY_BATCH', limit: 1 },
  'messages repeated.max_items': { reason: 'BATCH_TOO_LARGE', limit: limits.batchMessages },
  'subscribers repeated.max_items': { reason: 'BATCH_TOO_LARGE', limit: limits.broadcastSubscribers },
  'payload bytes.max_len': { reason: 'PAYLOAD_TOO_LARGE', limit: limits.payloadBytes },
};

/** Refuses a malformed request with every violation of the proto's rules named, before any handler sees it. */
export function validateInterceptor(): Interceptor {
  // The first validation of a type compiles its rules (0.2 s measured): not on the first caller's time.
  validator.validate(SendBatchRequestSchema, create(SendBatchRequestSchema, { messages: [{}] }));
  return (next) => async (request) => {
    const isPlain =
      request.method === MessageService.method.sendBatch && plainlyValid(request.message as SendBatchRequest);
    if (!request.stream && !isPlain) {
      const failure = checkRules(request.method.input, request.message);
      if (failure !== undefined) throw failure;
    }
    return await next(request);
  };
}

/** The failure that a message's rules make of it; undefined when it keeps them all. */
export function checkRules(schema: DescMessage, message: Message): Failure | undefined {
  const result = validator.validate(schema, message);
  if (result.kind === 'valid') return undefined;
  if (result.kind === 'error') throw result.error;
  const [first] = result.violations;
  const size = first === undefined ? undefined : sizes[sizeKey(first)];
  const metadata: Record<string, string> =
    first === undefined || size === undefined
      ? {}
      : { field: pathToString(first.field), limit: String(size.limit), actual: String(lengthAt(first.field, message)) };
  return malformed(result.violations.map(toViolation), metadata);
}

function toViolation(violation: RuleViolation): Violation {
  return {
    field: fieldOf(violation),
    description: violation.message,
    reason: sizes[sizeKey(violation)]?.reason ?? 'INVALID_FIELD',
  };
}

/** A rule of a whole message, which has no path of its own, starts its id with the field at fault: `channel_id.required` on `messages[3]` is `messages[3].channel_id`. */
function fieldOf(violation: RuleViolation): string {
  const path = pathToString(violation.field);
  if (violation.rule.length > 0) return path;
  const field = violation.ruleId.split('.', 1)[0] ?? '';
  return path === '' ? field : `${path}.${field}`;
}

function sizeKey(violation: RuleViolation): string {
  const last = violation.field.at(-1);
  return `${last?.kind === 'field' ? last.name : ''} ${violation.ruleId}`;
}

/** How long the list or the bytes at a path are. */
function lengthAt(path: Path, message: Message): number {
  let value: unknown = message;
  for (const step of path) {
    const name = step.kind === 'field' ? step.localName : step.kind === 'list_sub' ? step.index : undefined;
    value = name === undefined ? undefined : (value as Record<string | number, unknown>)[name];
  }
  return (value as { length?: number } | undefined)?.length ?? 0;
}
