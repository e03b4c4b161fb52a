import {
  create,
  type DescField,
  type DescMessage,
  fromJson,
  type JsonValue,
  type Message,
  type Registry,
  ScalarType,
} from '@bufbuild/protobuf';
import { isWrapperDesc } from '@bufbuild/protobuf/wkt';
import type { Faults } from './error.ts';
import { enumOfJson, type Scalar, scalarOfJson } from './scalar.ts';

/** How JSON is read. */
export interface JsonReadOptions {
  /** Types for google.protobuf.Any. */
  readonly registry?: Registry | undefined;
  /** Refuse numbers of up to 32 bits, and floats, that are strings. */
  readonly strictNumbers: boolean;
}

type Fields = Record<string, unknown>;
type ReadField = (target: Fields, json: unknown, path: string, faults: Faults) => void;

/**
 * Reads JSON into messages, in one pass, and names everything that is wrong by its path. (protobuf-es stops at the first fault, does not say at
 * which index it is, and drops unknown enum names where it ignores unknown fields.)
 *
 * Fields go by their proto or their JSON name; null is unset; unknown fields are passed over. Well-known types are read by protobuf-es.
 */
export class JsonReader {
  readonly #options: JsonReadOptions;
  readonly #compiled = new Map<DescMessage, Map<string, ReadField>>();

  constructor(options: JsonReadOptions) {
    this.#options = options;
  }

  /** A message out of a JSON object. */
  message(desc: DescMessage, json: unknown, path: string, faults: Faults): Message {
    const message = create(desc);
    if (typeof json !== 'object' || json === null || Array.isArray(json)) {
      faults.add(
        path === '' ? 'body' : path,
        `must be an object, not ${json === null ? 'null' : Array.isArray(json) ? 'an array' : `a ${typeof json}`}`,
      );
      return message;
    }
    const fields = this.#fieldsOf(desc);
    const prefix = path === '' ? '' : `${path}.`;
    const target = message as unknown as Fields;
    for (const name of Object.keys(json)) {
      const read = fields.get(name);
      const value = (json as Fields)[name];
      if (read !== undefined && value !== null) read(target, value, prefix, faults);
      else if (read !== undefined) read(target, null, prefix, faults);
    }
    for (const [a, b] of this.#aliases.get(desc) ?? [])
      if (Object.hasOwn(json, a) && Object.hasOwn(json, b))
        faults.add(`${prefix}${a}`, `is given twice: as ${a} and as ${b}`);
    return message;
  }

  /** One field of a message out of its JSON value. */
  field(message: Message, field: DescField, json: unknown, faults: Faults): void {
    this.#reader(field)(message as unknown as Fields, json, '', faults);
  }

  readonly #aliases = new Map<DescMessage, [string, string][]>();

  #fieldsOf(desc: DescMessage): Map<string, ReadField> {
    let fields = this.#compiled.get(desc);
    if (fields === undefined) {
      fields = new Map();
      this.#compiled.set(desc, fields);
      for (const field of desc.fields) {
        const read = this.#reader(field);
        fields.set(field.name, read);
        fields.set(field.jsonName, read);
      }
      this.#aliases.set(
        desc,
        desc.fields.filter((field) => field.name !== field.jsonName).map((field) => [field.name, field.jsonName]),
      );
    }
    return fields;
  }

  #reader(field: DescField): ReadField {
    const put = putter(field);
    const takesNull =
      field.message?.typeName === 'google.protobuf.Value' || field.enum?.typeName === 'google.protobuf.NullValue';
    const read = this.#valueReader(field);
    return (target, json, prefix, faults) => {
      if (json === null && !takesNull) return;
      const path = `${prefix}${field.name}`;
      const value = read(json, path, faults);
      if (value !== undefined) put(target, value, path, faults);
    };
  }

  /** The value of a whole field; undefined when it was at fault. */
  #valueReader(field: DescField): (json: unknown, path: string, faults: Faults) => unknown {
    if (field.fieldKind === 'list') {
      const element = this.#elementReader(field);
      return (json, path, faults) => {
        if (!Array.isArray(json)) return void faults.add(path, 'must be an array');
        return json.map((each, index) => element(each, `${path}[${index}]`, faults));
      };
    }
    if (field.fieldKind === 'map') {
      const element = this.#elementReader(field);
      return (json, path, faults) => {
        if (typeof json !== 'object' || json === null || Array.isArray(json))
          return void faults.add(path, 'must be an object');
        const map: Fields = {};
        for (const [key, each] of Object.entries(json)) {
          const read = keyOf(field.mapKey, key);
          const at = `${path}[${JSON.stringify(key)}]`;
          if ('fault' in read) faults.add(at, `the key ${read.fault}`);
          // defineProperty: a key may be __proto__.
          else
            Object.defineProperty(map, String(read.value), {
              value: element(each, at, faults),
              enumerable: true,
              writable: true,
              configurable: true,
            });
        }
        return map;
      };
    }
    return this.#elementReader(field);
  }

  #elementReader(field: DescField): (json: unknown, path: string, faults: Faults) => unknown {
    const { strictNumbers } = this.#options;
    const settle = (scalar: Scalar, path: string, faults: Faults) =>
      'fault' in scalar ? void faults.add(path, scalar.fault) : scalar.value;
    const { message, enum: enumeration, scalar } = field;
    if (message !== undefined) {
      if (!isWellKnown(message)) return (json, path, faults) => this.message(message, json, path, faults);
      const unwrap = field.fieldKind === 'message' && field.oneof === undefined && isWrapperDesc(message);
      return (json, path, faults) => {
        const value = this.#wellKnown(message, json, path, faults);
        return unwrap ? (value as { value?: unknown } | undefined)?.value : value;
      };
    }
    if (enumeration !== undefined) return (json, path, faults) => settle(enumOfJson(enumeration, json), path, faults);
    return (json, path, faults) => settle(scalarOfJson(scalar ?? ScalarType.STRING, json, strictNumbers), path, faults);
  }

  #wellKnown(desc: DescMessage, json: unknown, path: string, faults: Faults): Message | undefined {
    const { registry } = this.#options;
    try {
      return fromJson(desc, json as JsonValue, {
        ignoreUnknownFields: true,
        ...(registry === undefined ? {} : { registry }),
      });
    } catch (error) {
      faults.add(path, `is not a ${desc.typeName} in JSON: ${error instanceof Error ? error.message : String(error)}`);
      return undefined;
    }
  }
}

/** Types with a JSON form of their own. */
export function isWellKnown(desc: DescMessage): boolean {
  return desc.typeName.startsWith('google.protobuf.') && desc.typeName !== 'google.protobuf.Empty';
}

/** Sets a field on a message as generated code holds it. */
export function putter(field: DescField): (target: Fields, value: unknown, path: string, faults: Faults) => void {
  const { oneof, localName } = field;
  if (oneof === undefined) {
    return (target, value) => {
      target[localName] = value;
    };
  }
  return (target, value, path, faults) => {
    const { case: taken } = target[oneof.localName] as { case?: string };
    if (taken !== undefined && taken !== localName)
      faults.add(path, `cannot be given together with ${taken}: one of ${oneof.name} only`);
    target[oneof.localName] = { case: localName, value };
  };
}

function keyOf(type: ScalarType, key: string): Scalar {
  if (type === ScalarType.BOOL)
    return key === 'true' || key === 'false' ? { value: key } : { fault: 'must be true or false' };
  return scalarOfJson(type, key, false);
}
