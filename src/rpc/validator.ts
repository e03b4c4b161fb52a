import { create, type DescField, type DescMessage, getOption, hasOption, type Message } from '@bufbuild/protobuf';
import { type ReflectMessage, reflect, usedTypes } from '@bufbuild/protobuf/reflect';
import { createValidator, type Validator, type Violation } from '@bufbuild/protovalidate';
import {
  FieldRulesSchema,
  field as fieldRules,
  file_buf_validate_validate,
  predefined,
} from '@bufbuild/protovalidate/gen/buf/validate/validate_pb.js';

// protovalidate compiles all predefined rules of a kind, 40 for strings, as soon as a type has one
// of them: 140 ms of CPU at each start. Here it sees only the predefined rules that a type has.

/** Fields of StringRules, BytesRules, … whose rules are CEL expressions. */
const predefinedRules = file_buf_validate_validate.messages
  .flatMap(({ fields }) => fields)
  .filter((field) => hasOption(field, predefined))
  .map((field) => ({ field, options: field.proto.options }));
/** Types that the validator has compiled. */
const compiled = new Set<DescMessage>();
/** Those rules that it has compiled or will compile. */
const used = new Set<DescField>();

/** The patterns of the rules, compiled. */
const patterns = new Map<string, RegExp>();

/**
 * Matches patterns by V8 instead of protovalidate's RE2, which takes 75 ms per MiB of text. The
 * patterns are those of our protos, so none backtracks.
 */
function newValidator(): Validator {
  return createValidator({
    regexMatch: (pattern, text) => {
      const compiled = patterns.get(pattern) ?? new RegExp(pattern, 'u');
      patterns.set(pattern, compiled);
      return compiled.test(text);
    },
  });
}

let validator = newValidator();

/** Makes the predefined rules of these types known, so that `violationsOf` compiles them once. */
export function noteRules(types: Iterable<DescMessage>): void {
  const before = used.size;
  const all = new Set<DescMessage>();
  for (const type of types) {
    all.add(type);
    for (const each of usedTypes(type)) if (each.kind === 'message') all.add(each);
  }
  for (const { fields } of all) for (const field of fields) addRules(field);
  // A kind of rules is compiled once: the old validator does not have the new ones.
  if (used.size === before || compiled.size === 0) return;
  validator = newValidator();
  compiled.clear();
}

function addRules(field: DescField): void {
  if (hasOption(field, fieldRules)) addSet(reflect(FieldRulesSchema, getOption(field, fieldRules)));
}

/** Adds the rules that are set, and those for elements, keys and values below them. */
function addSet(rules: ReflectMessage): void {
  for (const field of rules.fields) {
    if (!rules.isSet(field)) continue;
    used.add(field);
    if (field.fieldKind === 'message') addSet(rules.get(field));
  }
}

/** The violated rules of a message. The first one of a type compiles its rules (2 ms). */
export function violationsOf(schema: DescMessage, message: Message): readonly Violation[] {
  if (!compiled.has(schema)) compile(schema);
  const result = validator.validate(schema, message);
  if (result.kind === 'error') throw result.error;
  return result.kind === 'valid' ? [] : result.violations;
}

function compile(schema: DescMessage): void {
  noteRules([schema]);
  const unused = predefinedRules.filter(({ field }) => !used.has(field));
  for (const { field } of unused) field.proto.options = undefined;
  try {
    validator.validate(schema, create(schema));
  } finally {
    for (const { field, options } of unused) field.proto.options = options;
  }
  compiled.add(schema);
}
