import {
  create,
  type DescField,
  type DescMessage,
  type JsonValue,
  type Message,
  type Registry,
  ScalarType,
} from '@bufbuild/protobuf';
import { isWrapperDesc } from '@bufbuild/protobuf/wkt';
import { enumOfJson } from './enum.ts';
import { type Faults, type Place, type Step, stepOf } from './error.ts';
import { type Fields, isJsonObject, putter, takesNull } from './field.ts';
import { quickScalar, type Scalar, scalarOfJson, wrong } from './scalar.ts';
import type { Slices } from './slices.ts';
import { didYouMean } from './suggest.ts';
import { isWellKnown, readAny, readWellKnown, whyNotKept } from './well-known.ts';

/** How JSON is read. */
export interface JsonReadOptions {
  /** The types for google.protobuf.Any. */
  readonly registry?: Registry | undefined;
  /** Refuse numbers of up to 32 bits, and floats, as strings. */
  readonly strictNumbers: boolean;
  /** Refuse unknown fields. */
  readonly strictFields: boolean;
  /** Accept field names in any case. */
  readonly anyCase: boolean;
}

/** Returns undefined for an invalid value, after reporting its fault. */
type Read = (json: unknown, parent: Place | undefined, step: Step, faults: Faults) => unknown;
type ReadMember = (target: Fields, member: unknown, at: Place | undefined, faults: Faults) => void;

/** One name of a field. */
interface Member {
  readonly field: DescField;
  readonly read: ReadMember;
  /** The proto name, when this is the JSON name. */
  readonly aliasOf: string | undefined;
}

/** How the members of a message's JSON object are read. */
interface Members {
  readonly byName: ReadonlyMap<string, Member>;
  /** The same by lower-case name. */
  readonly folded: ReadonlyMap<string, Member>;
}

/**
 * Reads messages from JSON in one pass and reports every fault with its path.
 *
 * Fields have their proto or JSON name, optionally in any case; null is unset. Extensions are not
 * supported. (protobuf-es stops at the first fault, does not report its index, and drops unknown
 * enum names when it ignores unknown fields.)
 */
export class JsonReader {
  readonly #options: JsonReadOptions;
  readonly #members = new Map<DescMessage, Members>();
  readonly #values = new Map<DescField, Read>();

  constructor(options: JsonReadOptions) {
    this.#options = options;
  }

  /** Reads a message from JSON. Without a place it is the body. */
  message(desc: DescMessage, json: unknown, at: Place | undefined, faults: Faults): Message {
    if (isWellKnown(desc)) return this.#wellKnown(desc, json, at?.parent, at?.step ?? 'body', faults) ?? create(desc);
    const message = create(desc);
    if (!isJsonObject(json)) {
      faults.addAt(at?.parent, at?.step ?? 'body', wrong('an object', json).fault);
      return message;
    }
    const members = this.#members.get(desc) ?? this.#compile(desc);
    const target = message as unknown as Fields;
    let others: Others | undefined;
    for (const name of Object.keys(json)) {
      const member = members.byName.get(name);
      if (member === undefined) {
        others ??= this.#others(desc, members, json, at, faults);
        others(target, name);
      } else if (member.aliasOf !== undefined && Object.hasOwn(json, member.aliasOf))
        faults.addAt(at, member.aliasOf, `is given twice, as ${member.aliasOf} and as ${name}`);
      else member.read(target, json[name], at, faults);
    }
    return message;
  }

  /** Returns a reader for the names of one object that match no field exactly. */
  #others(desc: DescMessage, members: Members, json: Fields, at: Place | undefined, faults: Faults): Others {
    const { anyCase, strictFields } = this.#options;
    const seen = new Set<DescField>();
    return (target, name) => {
      const member = anyCase ? members.folded.get(name.toLowerCase()) : undefined;
      if (member === undefined) {
        if (strictFields)
          faults.addAt(at, stepOf(name), `is not a field of ${desc.typeName}${near(name, members, faults)}`);
        return;
      }
      const { field, read } = member;
      const isTwice = seen.has(field) || Object.hasOwn(json, field.name) || Object.hasOwn(json, field.jsonName);
      seen.add(field);
      if (isTwice) faults.addAt(at, field.name, `is given twice, once as ${name}`);
      else read(target, json[name], at, faults);
    };
  }

  /** Reads one field of a message from its JSON value. */
  field(message: Message, field: DescField, json: unknown, faults: Faults): void {
    if (json === null && !takesNull(field)) return;
    const value = this.#value(field)(json, undefined, field.name, faults);
    if (value !== undefined) putter(field)(message as unknown as Fields, value, undefined, faults);
  }

  /**
   * Like `message`, for the root of a large body: lists of messages are read in slices and freed as
   * they are read.
   */
  async messageInSlices(desc: DescMessage, json: unknown, faults: Faults, slices: Slices): Promise<Message> {
    if (isWellKnown(desc) || !isJsonObject(json)) return this.message(desc, json, undefined, faults);
    const lists: [DescField, unknown[]][] = [];
    for (const field of desc.fields) {
      if (field.fieldKind !== 'list' || field.listKind !== 'message') continue;
      for (const name of new Set([field.name, field.jsonName])) {
        const list = Object.hasOwn(json, name) ? json[name] : undefined;
        if (!Array.isArray(list)) continue;
        lists.push([field, list]);
        json[name] = [];
      }
    }
    const message = this.message(desc, json, undefined, faults);
    for (const [field, list] of lists) await this.fieldInSlices(message, field, list, faults, slices);
    return message;
  }

  /** Like `field`, in slices for a list of messages. */
  async fieldInSlices(
    message: Message,
    field: DescField,
    json: unknown,
    faults: Faults,
    slices: Slices,
  ): Promise<void> {
    if (!Array.isArray(json) || field.fieldKind !== 'list' || field.listKind !== 'message')
      return this.field(message, field, json, faults);
    const element = this.#element(field);
    const at = { parent: undefined, step: field.name };
    const values: unknown[] = [];
    for (let index = 0; index < json.length; index++) {
      values.push(element(json[index], at, index, faults));
      json[index] = undefined;
      if (slices.isOver()) await slices.rest();
    }
    putter(field)(message as unknown as Fields, values, undefined, faults);
  }

  #compile(desc: DescMessage): Members {
    const byName = new Map<string, Member>();
    const folded = new Map<string, Member>();
    const members = { byName, folded };
    this.#members.set(desc, members);
    for (const field of desc.fields) {
      const read = this.#member(field);
      byName.set(field.name, { field, read, aliasOf: undefined });
      if (field.jsonName !== field.name) byName.set(field.jsonName, { field, read, aliasOf: field.name });
    }
    for (const [name, member] of byName) folded.set(name.toLowerCase(), member);
    return members;
  }

  #member(field: DescField): ReadMember {
    const { name: step } = field;
    const value = this.#value(field);
    const put = putter(field);
    const nullable = takesNull(field);
    return (target, member, at, faults) => {
      if (member === null && !nullable) return;
      const read = value(member, at, step, faults);
      if (read !== undefined) put(target, read, at, faults);
    };
  }

  #value(field: DescField): Read {
    let read = this.#values.get(field);
    if (read === undefined) {
      const element = this.#element(field);
      read =
        field.fieldKind === 'list'
          ? listOf(element)
          : field.fieldKind === 'map'
            ? mapOf(field.mapKey, element)
            : element;
      this.#values.set(field, read);
    }
    return read;
  }

  #element(field: DescField): Read {
    const { message, enum: enumeration, scalar } = field;
    if (message !== undefined) return this.#messageElement(field, message);
    if (enumeration !== undefined)
      return (json, parent, step, faults) => settle(enumOfJson(enumeration, json), parent, step, faults);
    const type = scalar ?? ScalarType.STRING;
    const { strictNumbers } = this.#options;
    const quick = quickScalar(type);
    const slow: Read = (json, parent, step, faults) =>
      settle(scalarOfJson(type, json, strictNumbers), parent, step, faults);
    const read: Read = (json, parent, step, faults) => quick(json) ?? slow(json, parent, step, faults);
    // jstype = JS_STRING: generated code holds the digits as a string.
    const asString = field.fieldKind !== 'map' && 'longAsString' in field && field.longAsString;
    if (!asString) return read;
    return (...args) => {
      const value = read(...args);
      return value === undefined ? undefined : String(value);
    };
  }

  #messageElement(field: DescField, message: DescMessage): Read {
    if (!isWellKnown(message))
      return (json, parent, step, faults) => this.message(message, json, { parent, step }, faults);
    // Generated code holds a singular wrapper as its bare value, and a Struct as the JSON object.
    const isBare = field.fieldKind === 'message' && field.oneof === undefined && isWrapperDesc(message);
    const isStruct = message.typeName === 'google.protobuf.Struct';
    return (json, parent, step, faults) => {
      // Any object is a valid Struct. Building the message first took seconds and a gigabyte for 14
      // MB.
      if (isStruct && isJsonObject(json)) {
        const why = whyNotKept(json, { parent, step });
        return why === undefined ? json : void faults.addAt(why.at.parent, why.at.step, why.fault);
      }
      const value = this.#wellKnown(message, json, parent, step, faults);
      if (value === undefined || isStruct) return value && json;
      return isBare ? (value as { value?: unknown }).value : value;
    };
  }

  #wellKnown(desc: DescMessage, json: unknown, parent: Place | undefined, step: Step, faults: Faults) {
    const { registry, strictNumbers } = this.#options;
    if (desc.typeName === 'google.protobuf.Any')
      return readAny(json, { parent, step }, faults, registry, (inner, value, at) =>
        this.message(inner, value, at, faults),
      );
    if (isWrapperDesc(desc)) {
      const value = settle(
        scalarOfJson(desc.fields[0]?.scalar ?? ScalarType.STRING, json, strictNumbers),
        parent,
        step,
        faults,
      );
      return value === undefined ? undefined : create(desc, { value } as never);
    }
    const why = whyNotKept(json, { parent, step });
    if (why !== undefined) return void faults.addAt(why.at.parent, why.at.step, why.fault);
    return readWellKnown(desc, json as JsonValue, parent, step, faults);
  }
}

type Others = (target: Fields, name: string) => void;

/** Longer field names are truncated in errors. */
const nameChars = 64;

function near(name: string, { byName }: Members, faults: Faults): string {
  if (faults.isFull || name.length > nameChars) return '';
  return didYouMean(
    name,
    [...byName].flatMap(([known, { aliasOf }]) => (aliasOf === undefined ? [known] : [])),
  );
}

function settle(scalar: Scalar, parent: Place | undefined, step: Step, faults: Faults): unknown {
  return 'fault' in scalar ? void faults.addAt(parent, step, scalar.fault) : scalar.value;
}

function listOf(element: Read): Read {
  return (json, parent, step, faults) => {
    if (!Array.isArray(json)) return void faults.addAt(parent, step, wrong('an array', json).fault);
    const at = { parent, step };
    return json.map((each, index) => element(each, at, index, faults));
  };
}

function mapOf(keyType: ScalarType, element: Read): Read {
  return (json, parent, step, faults) => {
    if (!isJsonObject(json)) return void faults.addAt(parent, step, wrong('an object', json).fault);
    const place = { parent, step };
    const map: Fields = {};
    for (const [key, each] of Object.entries(json)) {
      const at = `[${JSON.stringify(key.slice(0, 64))}]`;
      const read = keyOf(keyType, key);
      if ('fault' in read) faults.addAt(place, at, `the key ${read.fault}`);
      else if (Object.hasOwn(map, String(read.value)))
        faults.addAt(place, at, 'the key is repeated in another spelling');
      else {
        const value = element(each, place, at, faults);
        // defineProperty, because a key may be __proto__.
        Object.defineProperty(map, String(read.value), { value, enumerable: true, writable: true, configurable: true });
      }
    }
    return map;
  };
}

function keyOf(type: ScalarType, key: string): Scalar {
  if (type === ScalarType.BOOL)
    return key === 'true' || key === 'false' ? { value: key } : { fault: 'must be true or false' };
  return scalarOfJson(type, key, false);
}
