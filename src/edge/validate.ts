import { create, type DescMessage, getOption, type Message } from '@bufbuild/protobuf';
import { type Path, pathToString } from '@bufbuild/protobuf/reflect';
import { createValidator, type Violation as RuleViolation } from '@bufbuild/protovalidate';
import { field as fieldRules } from '@bufbuild/protovalidate/gen/buf/validate/validate_pb.js';
import type { Interceptor } from '@connectrpc/connect';
import { BatchService, type SubmitBatchRequest } from '../../gen/sendbatch/v1/batch_service_pb.ts';
import {
  MessageService,
  type SendBatchRequest,
  SendBatchRequestSchema,
} from '../../gen/sendbatch/v1/message_service_pb.ts';
import { type Failure, malformed, type Reason, type Violation } from '../domain/failure.ts';
import { ruleWords } from '../domain/rule-words.ts';
import { limits } from '../limits.ts';
import { shortNameOf } from '../transcode/index.ts';
import { plainlySubmittable, plainlyValid } from './quick-check.ts';

const validator = createValidator();

/** Rules, by field and rule id, whose breach has a reason of its own; the breach of any other is INVALID_FIELD. */
const sizes: Record<string, Reason> = {
  'messages repeated.min_items': 'EMPTY_BATCH',
  'messages repeated.max_items': 'BATCH_TOO_LARGE',
  'subscribers repeated.max_items': 'BATCH_TOO_LARGE',
  'payload bytes.max_len': 'PAYLOAD_TOO_LARGE',
};

/** Refuses a malformed request with every violation of the proto's rules named, before any handler sees it. */
export function validateInterceptor(): Interceptor {
  // The first validation of a type compiles its rules (0.2 s measured): not on the first caller's time.
  validator.validate(SendBatchRequestSchema, create(SendBatchRequestSchema, { messages: [{}] }));
  return (next) => async (request) => {
    const isPlain =
      (request.method === MessageService.method.sendBatch && plainlyValid(request.message as SendBatchRequest)) ||
      (request.method === BatchService.method.submitBatch && plainlySubmittable(request.message as SubmitBatchRequest));
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
      : {
          field: pathToString(first.field),
          limit: boundOf(first),
          actual: String(lengthAt(first.field, message)),
        };
  return malformed(
    result.violations.map((violation) => toViolation(violation, message)),
    metadata,
  );
}

function toViolation(violation: RuleViolation, message: Message): Violation {
  const { ruleId: id, message: said, field } = violation;
  const desc = field.findLast((step) => step.kind === 'field')?.enum;
  const values = desc?.values
    .filter(({ number }) => number > 0)
    .map(({ name, number }) => ({ name: shortNameOf(desc, name), number }));
  const actual = /\.max_(bytes|len|items)$/.test(id) ? lengthAt(field, message, id === 'string.max_len') : undefined;
  const words = ruleWords({ id, said, ...(values && { values }), ...(actual !== undefined && { actual }) });
  return {
    field: fieldOf(violation),
    description: `${words}${wayOut(violation)}`,
    reason: sizes[sizeKey(violation)] ?? 'INVALID_FIELD',
  };
}

/** Where else too many messages can go. */
function wayOut(violation: RuleViolation): string {
  if (sizeKey(violation) !== 'messages repeated.max_items') return '';
  return boundOf(violation) === String(limits.batchMessages)
    ? `: send the rest in another call, or all of them in the background with SubmitBatch (POST /v1/batches), which takes ${limits.submitMessages}`
    : ': send the rest as another batch';
}

/** A rule of our own, which may be of a whole message, starts its id with the field at fault: `channel_id.required` on `messages[3]` is `messages[3].channel_id`. */
function fieldOf(violation: RuleViolation): string {
  const path = pathToString(violation.field);
  const isOwn =
    violation.rule.length === 0 || violation.rule.some((step) => step.kind === 'field' && step.name === 'cel');
  if (!isOwn) return path;
  const field = violation.ruleId.split('.', 1)[0] ?? '';
  return path === '' ? field : `${path}.${field}`;
}

function sizeKey(violation: RuleViolation): string {
  const last = violation.field.at(-1);
  return `${last?.kind === 'field' ? last.name : ''} ${violation.ruleId}`;
}

/** The number in the rule that was broken, as the proto has it. */
function boundOf({ field, ruleId }: RuleViolation): string {
  const last = field.at(-1);
  if (last?.kind !== 'field') return '';
  const rules = getOption(last, fieldRules).type.value as Record<string, unknown> | undefined;
  const rule = ruleId.split('.')[1] ?? '';
  return String(rules?.[rule.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase())] ?? '');
}

/** How long the list, the bytes or the text at a path are; a text in bytes, or in characters (Unicode code points) where the rule counts those. */
function lengthAt(path: Path, message: Message, inCharacters = false): number {
  let value: unknown = message;
  for (const step of path) {
    const name = step.kind === 'field' ? step.localName : step.kind === 'list_sub' ? step.index : undefined;
    value = name === undefined ? undefined : (value as Record<string | number, unknown>)[name];
  }
  if (typeof value === 'string') return inCharacters ? [...value].length : Buffer.byteLength(value);
  return (value as { length?: number } | undefined)?.length ?? 0;
}
