import { create, type DescField, type DescMessage, fromJson, type Message, ScalarType } from '@bufbuild/protobuf';
import { isWrapperDesc } from '@bufbuild/protobuf/wkt';
import { type Faults, TranscodeError } from './error.ts';
import { isWellKnown, putter } from './json-reader.ts';
import { enumOfText, type Scalar, scalarOfText } from './scalar.ts';

type Fields = Record<string, unknown>;

/** The well-known types that ProtoJSON writes as one text, so that a path or a query can hold them. */
const textual = new Set(['google.protobuf.Timestamp', 'google.protobuf.Duration', 'google.protobuf.FieldMask']);

/** A field that a text can set, and the messages on the way to it. */
export interface Target {
  readonly path: readonly DescField[];
  readonly leaf: DescField;
}

/** Finds the field at a path of names; throws what is wrong with it. With `repeated`, a list of texts may be its leaf. */
export function targetOf(desc: DescMessage, names: readonly string[], repeated: boolean): Target {
  const path: DescField[] = [];
  let here: DescMessage | undefined = desc;
  for (const [index, name] of names.entries()) {
    const field: DescField | undefined = here?.fields.find((each) => each.name === name || each.jsonName === name);
    if (field === undefined) throw new Error(`${here?.typeName ?? desc.typeName} has no field ${name}`);
    path.push(field);
    const isLast = index === names.length - 1;
    if (!isLast && (field.fieldKind !== 'message' || isWellKnown(field.message)))
      throw new Error(`${names.slice(0, index + 1).join('.')} has no fields`);
    here = field.message;
  }
  const leaf = path.at(-1);
  if (leaf === undefined) throw new Error('the path is empty');
  const { message } = leaf;
  if (leaf.fieldKind === 'map' || (leaf.fieldKind === 'list' && !repeated))
    throw new Error(`${names.join('.')} is ${leaf.fieldKind === 'map' ? 'a map' : 'repeated'}`);
  if (message !== undefined && !textual.has(message.typeName) && !isWrapperDesc(message))
    throw new Error(`${names.join('.')} is a message: name a field of it`);
  return { path, leaf };
}

/** Sets a field from the texts that were given for it. */
export function setFromTexts(message: Message, { path, leaf }: Target, texts: readonly string[], faults: Faults): void {
  const name = path.map((field) => field.name).join('.');
  if (leaf.fieldKind !== 'list' && texts.length > 1) {
    faults.add(name, 'is given more than once');
    return;
  }
  const values = texts.map((text) => {
    const read = valueOfText(leaf, text);
    if ('fault' in read) {
      faults.add(name, read.fault);
      return undefined;
    }
    return read.value;
  });
  let here = message as unknown as Fields;
  for (const field of path.slice(0, -1)) here = descend(here, field);
  putter(leaf)(here, leaf.fieldKind === 'list' ? values : values[0], name, faults);
}

/** The message in a field, made when it is not there. */
function descend(here: Fields, field: DescField): Fields {
  if (field.message === undefined) throw new Error(`${field.name} is not a message`);
  const holder =
    field.oneof === undefined ? undefined : (here[field.oneof.localName] as { case?: string; value?: unknown });
  const held =
    holder === undefined ? here[field.localName] : holder.case === field.localName ? holder.value : undefined;
  if (held !== undefined) return held as Fields;
  const made = create(field.message) as unknown as Fields;
  if (field.oneof === undefined) here[field.localName] = made;
  else here[field.oneof.localName] = { case: field.localName, value: made };
  return made;
}

function valueOfText(field: DescField, text: string): Scalar {
  if (!text.isWellFormed()) return { fault: 'must be valid Unicode' };
  const { message, enum: enumeration, scalar } = field;
  if (enumeration !== undefined) return enumOfText(enumeration, text);
  if (message === undefined) return scalarOfText(scalar ?? ScalarType.STRING, text);
  if (isWrapperDesc(message)) {
    const inner = message.fields[0];
    if (inner === undefined) throw new Error(`${message.typeName} has no field`);
    const read = valueOfText(inner, text);
    if ('fault' in read || (field.fieldKind === 'message' && field.oneof === undefined)) return read;
    return { value: create(message, { value: read.value } as never) };
  }
  try {
    return { value: fromJson(message, text) };
  } catch (error) {
    return { fault: `is not a ${message.typeName}: ${error instanceof Error ? error.message : String(error)}` };
  }
}

/** The parameters of a query, by name, in the order of their first sight. */
export function parseQuery(search: string): Map<string, string[]> {
  const texts = new Map<string, string[]>();
  for (const part of search.replace(/^\?/, '').split('&')) {
    if (part === '') continue;
    const [name = '', ...rest] = part.split('=');
    const key = decode(name);
    const known = texts.get(key);
    const value = decode(rest.join('='));
    if (known === undefined) texts.set(key, [value]);
    else known.push(value);
  }
  return texts;
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    throw new TranscodeError(
      400,
      `the query has a percent-encoding that is not UTF-8: ${JSON.stringify(text.slice(0, 64))}`,
    );
  }
}
