import {
  create,
  type DescField,
  type DescMessage,
  equals,
  fromJson,
  type Message,
  ScalarType,
} from '@bufbuild/protobuf';
import { isWrapperDesc } from '@bufbuild/protobuf/wkt';
import { enumOfText } from './enum.ts';
import type { Faults } from './error.ts';
import { type Fields, held, isSet, putter } from './field.ts';
import { quoted, type Scalar, scalarOfText } from './scalar.ts';
import { isWellKnown, jsonForms } from './well-known.ts';
import { isExact } from './well-known-text.ts';

/**
 * Well-known types that ProtoJSON writes as one string, so that a path or a query can hold them.
 */
const textual = new Set(['google.protobuf.Timestamp', 'google.protobuf.Duration', 'google.protobuf.FieldMask']);

/** A field that a string can set: the fields on the way to it, and the field itself. */
export type Target = readonly [...DescField[], DescField];

/** Returns the field at a path of proto or JSON names; undefined when there is none. */
export function targetOf(desc: DescMessage, names: readonly string[]): Target | undefined {
  const path: DescField[] = [];
  let here: DescMessage | undefined = desc;
  for (const name of names) {
    const field: DescField | undefined = here?.fields.find((each) => each.name === name || each.jsonName === name);
    if (field === undefined) return undefined;
    path.push(field);
    here = field.fieldKind === 'message' && !isWellKnown(field.message) ? field.message : undefined;
  }
  const leaf = path.pop();
  return leaf === undefined ? undefined : [...path, leaf];
}

export function leafOf(target: Target): DescField {
  return target[target.length - 1] as DescField;
}

export function spellTarget(target: Target): string {
  return target.map((field) => field.name).join('.');
}

/** Returns why a string cannot set a field; undefined when it can. */
export function whyNoText(leaf: DescField): string | undefined {
  if (leaf.fieldKind === 'map') return 'is a map';
  const { message } = leaf;
  if (message === undefined || textual.has(message.typeName) || isWrapperDesc(message)) return undefined;
  return 'is a message: name a field of it';
}

/** Where the strings of a field come from. */
type Place = 'path' | 'query';

/**
 * Sets a field of a message, which may already be partly set, from its strings in the path or
 * query.
 */
export function setFromTexts(
  message: Message,
  target: Target,
  texts: readonly string[],
  faults: Faults,
  place: Place,
): void {
  const why = whyNotSet(message, target, texts, faults, place);
  if (why !== undefined) faults.add(spellTarget(target), why);
}

function whyNotSet(
  message: Message,
  target: Target,
  texts: readonly string[],
  faults: Faults,
  place: Place,
): string | undefined {
  const leaf = leafOf(target);
  if (leaf.fieldKind !== 'list' && texts.length > 1) return 'must be given only once';
  const values: unknown[] = [];
  for (const text of texts) {
    const read = valueOfText(leaf, text);
    if ('fault' in read) return read.fault;
    values.push(read.value);
  }
  let here: Fields | undefined = message as unknown as Fields;
  for (const field of target.slice(0, -1)) {
    here = descend(here, field, faults);
    if (here === undefined) return undefined;
  }
  const value = leaf.fieldKind === 'list' ? values : values[0];
  // Only a body can have set it before. It may repeat the value, as a whole resource with its name
  // does, but not contradict it.
  if (isSet(here, leaf) && !isSame(leaf, held(here, leaf), value)) return `differs between the body and the ${place}`;
  putter(leaf)(here, value, undefined, faults);
  return undefined;
}

/** Returns the message in a field, created when it is unset. */
function descend(here: Fields, field: DescField, faults: Faults): Fields | undefined {
  if (field.message === undefined) throw new Error(`${field.name} is not a message`);
  if (!isSet(here, field)) {
    putter(field)(here, create(field.message), undefined, faults);
    if (!isSet(here, field)) return undefined;
  }
  return held(here, field) as Fields;
}

function isSame(leaf: DescField, a: unknown, b: unknown): boolean {
  if (a instanceof Uint8Array && b instanceof Uint8Array) return Buffer.compare(a, b) === 0;
  if (leaf.message !== undefined && typeof a === 'object') return equals(leaf.message, a as Message, b as Message);
  return Object.is(a, b);
}

function valueOfText(field: DescField, text: string): Scalar {
  const { message, enum: enumeration, scalar } = field;
  if (enumeration !== undefined) return enumOfText(enumeration, text);
  if (message === undefined) {
    const read = scalarOfText(scalar ?? ScalarType.STRING, text);
    const asString = field.fieldKind !== 'map' && 'longAsString' in field && field.longAsString;
    return asString && 'value' in read ? { value: String(read.value) } : read;
  }
  if (isWrapperDesc(message)) {
    const read = scalarOfText(message.fields[0]?.scalar ?? ScalarType.STRING, text);
    if ('fault' in read || (field.fieldKind === 'message' && field.oneof === undefined)) return read;
    return { value: create(message, { value: read.value } as never) };
  }
  try {
    if (!isExact(message.typeName, text)) throw new Error('it does not exist');
    return { value: fromJson(message, text) };
  } catch {
    const form = jsonForms[message.typeName];
    return {
      fault:
        form === undefined
          ? `is not a ${message.typeName} as JSON writes it`
          : `must be ${form.replaceAll('"', '')}, not ${quoted(text)}`,
    };
  }
}
