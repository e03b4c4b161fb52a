import { create, type DescField, type DescMessage, getOption, type Message } from '@bufbuild/protobuf';
import { type Path, pathToString } from '@bufbuild/protobuf/reflect';
import type { Violation as RuleViolation } from '@bufbuild/protovalidate';
import { field as fieldRules } from '@bufbuild/protovalidate/gen/buf/validate/validate_pb.js';
import type { Interceptor } from '@connectrpc/connect';
import { BatchService, type SubmitBatchRequest } from '../../../gen/sendbatch/v1/batch_service_pb.ts';
import {
  MessageService,
  type SendBatchRequest,
  SendBatchRequestSchema,
} from '../../../gen/sendbatch/v1/message_service_pb.ts';
import { limits } from '../../limits.ts';
import {
  batchTooLarge,
  malformed,
  type Reason,
  type ServiceError,
  type Violation,
} from '../../messages/service-error.ts';
import { Slices, shortNameOf } from '../../transcode/index.ts';
import { isDefinitelySubmittable, isDefinitelyValid } from '../fast-validate.ts';
import { toDraft } from '../plain-batch/index.ts';
import { maxElements } from '../protobuf-scan.ts';
import { violationMessage } from '../validation-messages.ts';
import { noteRules, violationsOf } from '../validator.ts';

/** Rules, by field and rule id, with a reason of their own; all others are INVALID_FIELD. */
const sizeReasons: Record<string, Reason> = {
  'messages repeated.min_items': 'EMPTY_BATCH',
  'messages repeated.max_items': 'BATCH_TOO_LARGE',
  'subscribers repeated.max_items': 'BATCH_TOO_LARGE',
  'payload bytes.max_len': 'PAYLOAD_TOO_LARGE',
};

/**
 * Refuses an invalid request with all violated rules, before its handler runs. `inputs`: the types
 * of all requests.
 */
export function validateInterceptor(inputs: Iterable<DescMessage>): Interceptor {
  noteRules(inputs);
  // The first validation compiles the rules of its kinds, which no caller should wait for.
  violationsOf(SendBatchRequestSchema, create(SendBatchRequestSchema, { messages: [{}] }));
  return (next) => (request) => {
    const isSendBatch = request.method === MessageService.method.sendBatch;
    const isValid =
      (isSendBatch && isDefinitelyValid(request.message as SendBatchRequest)) ||
      (request.method === BatchService.method.submitBatch &&
        isDefinitelySubmittable(request.message as SubmitBatchRequest));
    if (request.stream || isValid) return next(request);
    if (isSendBatch) {
      const batch = request.message as SendBatchRequest;
      batch.messages = batch.messages.map(toDraft);
    }
    return checkRulesInSlices(request.method.input, request.message).then((error) => {
      if (error !== undefined) throw error;
      return next(request);
    });
  };
}

/** The error of a message that violates rules; undefined when it violates none. */
export function checkRules(schema: DescMessage, message: Message): ServiceError | undefined {
  return errorOfViolations(violationsOf(schema, message), message);
}

/** Messages and receivers validated in one slice: 10 ms if all are invalid. */
const sliceMessages = 16;
const sliceReceivers = 1000;

type ListField = DescField & { readonly fieldKind: 'list' };

/**
 * The same in slices for many messages: 1,000 messages with 10,000 invalid receivers each would
 * block the process for seconds. A list that is too long is not validated, and validation stops at
 * the number of violations that an error names.
 */
async function checkRulesInSlices(schema: DescMessage, message: Message): Promise<ServiceError | undefined> {
  const field = schema.fields.find(
    (each): each is ListField => each.fieldKind === 'list' && each.listKind === 'message',
  );
  const list = field === undefined ? [] : (memberOf(message, field) as Message[]);
  if (field === undefined || list.length <= sliceMessages) return checkRules(schema, message);
  const maxCount = maxElements(field);
  if (list.length > maxCount) return tooManyElements(field.name, maxCount, list.length);
  const slices = new Slices();
  const violations: RuleViolation[] = [];
  for (let from = 0; from < list.length && violations.length <= limits.violationsNamed; ) {
    let to = from;
    for (let receivers = 0; to < list.length && to - from < sliceMessages && receivers <= sliceReceivers; to++)
      receivers += (list[to] as { subscribers?: unknown[] }).subscribers?.length ?? 0;
    const part = Object.assign(create(schema), message, { [field.localName]: list.slice(from, to) });
    for (const each of violationsOf(schema, part)) {
      const isOfList = each.field[0]?.kind === 'field' && each.field[0].number === field.number;
      // Violations outside the list are the same in each slice.
      if (isOfList || from === 0) violations.push(isOfList ? shifted(each, from) : each);
    }
    from = to;
    if (slices.isOver()) await slices.rest();
  }
  return errorOfViolations(violations, message);
}

function memberOf(message: Message, { localName }: DescField): unknown {
  return (message as unknown as Record<string, unknown>)[localName];
}

/** The violation with its element's index in the whole list. */
function shifted(violation: RuleViolation, by: number): RuleViolation {
  const [list, element, ...rest] = violation.field;
  if (list === undefined || element?.kind !== 'list_sub') return violation;
  const field = [list, { ...element, index: element.index + by }, ...rest];
  return { ...violation, field, message: violation.message } as RuleViolation;
}

/** The error of a list with more elements than its rule allows. */
export function tooManyElements(field: string, limit: number, actual: number): ServiceError {
  const text = violationMessage({ id: 'repeated.max_items', ownText: String(limit), actual });
  const description = `${text}${field === 'messages' ? alternative(limit) : ''}`;
  return batchTooLarge(field, description, { limit, actual });
}

function errorOfViolations(violations: readonly RuleViolation[], message: Message): ServiceError | undefined {
  const [first] = violations;
  if (first === undefined) return undefined;
  const size = sizeReasons[sizeKey(first)];
  const metadata: Record<string, string> =
    size === undefined
      ? {}
      : {
          field: pathToString(first.field),
          limit: boundOf(first),
          actual: String(lengthAt(first.field, message)),
        };
  // Those that are named, and one more, which shows that there are more. Rendering a million takes
  // seconds.
  const named = violations.slice(0, limits.violationsNamed + 1).map((violation) => toViolation(violation, message));
  return malformed(named, metadata, violations.length);
}

function toViolation(violation: RuleViolation, message: Message): Violation {
  const { ruleId: id, message: said, field } = violation;
  const desc = field.findLast((step) => step.kind === 'field')?.enum;
  const values = desc?.values
    .filter(({ number }) => number > 0)
    .map(({ name, number }) => ({ name: shortNameOf(desc, name), number }));
  const actual = /\.max_(bytes|len|items)$/.test(id) ? lengthAt(field, message, id === 'string.max_len') : undefined;
  const text = violationMessage({
    id,
    ownText: said,
    ...(values && { values }),
    ...(actual !== undefined && { actual }),
  });
  return {
    field: fieldOf(violation),
    description: `${text}${sizeKey(violation) === 'messages repeated.max_items' ? alternative(Number(boundOf(violation))) : ''}`,
    reason: sizeReasons[sizeKey(violation)] ?? 'INVALID_FIELD',
  };
}

/** The alternative for the messages that do not fit. */
function alternative(limit: number): string {
  return limit === limits.batchMessages
    ? `; send the rest in another call, or all of them in the background with SubmitBatch (POST /v1/batches), which takes up to ${limits.submitMessages}`
    : '; send the rest as another batch';
}

/**
 * The path of the field at fault. The id of a custom rule, which may be a message's, starts with
 * the field: `channel_id.required` on `messages[3]` is `messages[3].channel_id`.
 */
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

/** The limit of the violated rule, as the proto has it. */
function boundOf({ field, ruleId }: RuleViolation): string {
  const last = field.at(-1);
  if (last?.kind !== 'field') return '';
  const rules = getOption(last, fieldRules).type.value as Record<string, unknown> | undefined;
  const rule = ruleId.split('.')[1] ?? '';
  return String(rules?.[rule.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase())] ?? '');
}

/**
 * The length of the value at a path: elements, bytes, or Unicode code points where the rule counts
 * characters.
 */
function lengthAt(path: Path, message: Message, inCharacters = false): number {
  let value: unknown = message;
  for (const step of path) {
    const name = step.kind === 'field' ? step.localName : step.kind === 'list_sub' ? step.index : undefined;
    value = name === undefined ? undefined : (value as Record<string | number, unknown>)[name];
  }
  if (typeof value === 'string') return inCharacters ? characters(value) : Buffer.byteLength(value);
  return (value as { length?: number } | undefined)?.length ?? 0;
}

/** The number of Unicode code points, without an array of them: 16 MB would take 128 MB. */
function characters(text: string): number {
  let count = text.length;
  for (let index = 1; index < text.length; index++)
    if ((text.charCodeAt(index) & 0xfc00) === 0xdc00 && (text.charCodeAt(index - 1) & 0xfc00) === 0xd800) count--;
  return count;
}
