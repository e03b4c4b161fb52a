import { type DescField, type DescMessage, getOption, hasOption, ScalarType } from '@bufbuild/protobuf';
import { type ReflectMessage, reflect } from '@bufbuild/protobuf/reflect';
import {
  FieldRulesSchema,
  field as fieldRules,
  message as messageRules,
} from '@bufbuild/protovalidate/gen/buf/validate/validate_pb.js';
import { isImplicit } from '../transcode/index.ts';

/** Keywords of JSON Schema. */
export type Keywords = Record<string, unknown>;

/** The protovalidate rules of a field in JSON Schema, and whether the field is required. */
export interface FieldRules {
  readonly keywords: Keywords;
  /** The rules of a list's elements. */
  readonly items: Keywords;
  readonly required: boolean;
}

const known = new WeakMap<DescField, FieldRules>();

/** Returns the rules of a field. */
export function rulesOf(field: DescField): FieldRules {
  let rules = known.get(field);
  if (rules === undefined) {
    rules = readRules(field);
    known.set(field, rules);
  }
  return rules;
}

function readRules(field: DescField): FieldRules {
  if (!hasOption(field, fieldRules)) return { keywords: {}, items: {}, required: false };
  const all = reflect(FieldRulesSchema, getOption(field, fieldRules));
  const rules = typeRulesOf(all);
  const inner = rules.get('items');
  const keywords = keywordsOf(rules);
  return {
    keywords,
    items: inner === undefined ? {} : keywordsOf(typeRulesOf(inner as ReflectMessage)),
    required: ruleOf(all, 'required') === true || (isImplicit(field) && !takesDefault(keywords)),
  };
}

/** Returns the messages of the rules about a whole message. */
export function messageRulesOf(message: DescMessage): string[] {
  if (!hasOption(message, messageRules)) return [];
  return getOption(message, messageRules).cel.map(({ id, message: text }) => `\`${id.split('.', 1)[0]}\` ${text}`);
}

/** Returns the rules of the field's type by name. */
function typeRulesOf(all: ReflectMessage): Map<string, unknown> {
  const rules = new Map<string, unknown>();
  const chosen = all.oneofCase(all.oneofs.find((each) => each.name === 'type') as (typeof all.oneofs)[number]);
  if (chosen === undefined) return rules;
  const type = all.get(chosen) as ReflectMessage;
  for (const rule of type.fields) if (type.isSet(rule)) rules.set(rule.name, type.get(rule));
  return rules;
}

function ruleOf(message: ReflectMessage, name: string): unknown {
  const field = message.fields.find((each) => each.name === name);
  return field !== undefined && message.isSet(field) ? message.get(field) : undefined;
}

/** Byte limits also bound characters; base64 has four characters per three bytes. */
const written: Readonly<Record<string, (value: unknown) => Keywords>> = {
  min_len: (value) => ({ minLength: Number(value) }),
  max_len: (value) => ({ maxLength: Number(value) }),
  min_bytes: (value) => ({ minLength: Number(value) > 0 ? 1 : 0 }),
  max_bytes: (value) => ({ maxLength: Number(value) }),
  pattern: (value) => ({ pattern: String(value) }),
  min_items: (value) => ({ minItems: Number(value) }),
  max_items: (value) => ({ maxItems: Number(value) }),
  unique: (value) => (value === true ? { uniqueItems: true } : {}),
  gt: (value) => ({ exclusiveMinimum: Number(value) }),
  gte: (value) => ({ minimum: Number(value) }),
  lt: (value) => ({ exclusiveMaximum: Number(value) }),
  lte: (value) => ({ maximum: Number(value) }),
  in: (value) => ({ enum: [...(value as Iterable<unknown>)] }),
  not_in: (value) => ({ not: { enum: [...(value as Iterable<unknown>)] } }),
};

function keywordsOf(rules: ReadonlyMap<string, unknown>): Keywords {
  const keywords: Keywords = {};
  for (const [name, value] of rules) Object.assign(keywords, written[name]?.(value));
  return keywords;
}

/** Whether a missing field, which has its default, satisfies its rules. */
function takesDefault({
  minLength = 0,
  minItems = 0,
  exclusiveMinimum = -1,
  minimum = 0,
  pattern,
  not,
}: Keywords): boolean {
  if ([minLength, minItems, minimum].some((least) => Number(least) > 0) || Number(exclusiveMinimum) >= 0) return false;
  if (typeof pattern === 'string' && !new RegExp(pattern, 'u').test('')) return false;
  return not === undefined || !(not as { enum: unknown[] }).enum.includes(0);
}

/** Converts limits in bytes to limits of base64 characters. */
export function ofBytes(field: DescField, { minLength, maxLength, ...rest }: Keywords): Keywords {
  if (field.scalar !== ScalarType.BYTES) return { ...rest, ...defined({ minLength, maxLength }) };
  const base64 = (bytes: unknown) => (bytes === undefined ? undefined : Math.ceil(Number(bytes) / 3) * 4);
  return { ...rest, ...defined({ minLength: base64(minLength), maxLength: base64(maxLength) }) };
}

function defined(keywords: Keywords): Keywords {
  return Object.fromEntries(Object.entries(keywords).filter(([, value]) => value !== undefined));
}
