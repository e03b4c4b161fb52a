import {
  type DescEnum,
  type DescField,
  type DescMessage,
  type Message,
  type Registry,
  ScalarType,
  toJson,
} from '@bufbuild/protobuf';
import { isWrapperDesc } from '@bufbuild/protobuf/wkt';
import { type Fields, held, isImplicit, isSet } from './field.ts';
import { isLong } from './scalar.ts';
import { isWellKnown } from './well-known.ts';

/** How JSON is written. */
export interface JsonWriteOptions {
  /** The types for google.protobuf.Any. */
  readonly registry?: Registry | undefined;
  /** `message_id` instead of `messageId`. */
  readonly protoNames: boolean;
  /** 64-bit integers as exact numbers instead of strings. */
  readonly longsAsNumbers: boolean;
  /** Enums as numbers instead of names. */
  readonly enumsAsNumbers: boolean;
  /**
   * Write fields without presence even when they have their default, and empty lists as `[]`: all,
   * none, or the chosen ones.
   */
  readonly alwaysImplicit: boolean | ((field: DescField) => boolean);
}

type Write = (value: unknown) => string;

/**
 * Writes messages as JSON text. `optional` fields and messages are written when they are set.
 *
 * It compiles one function per field and type, and builds no intermediate JSON values.
 */
export class JsonWriter {
  readonly #options: JsonWriteOptions;
  readonly #messages = new Map<DescMessage, (message: Message) => string>();
  readonly #values = new Map<DescField, Write>();

  constructor(options: JsonWriteOptions) {
    this.#options = options;
  }

  /** Writes a message: an object, except for the well-known types. */
  message(desc: DescMessage, message: Message): string {
    let write = this.#messages.get(desc);
    if (write === undefined) {
      write = isWellKnown(desc) ? this.#wellKnown(desc) : this.#object(desc);
      this.#messages.set(desc, write);
    }
    return write(message);
  }

  /** Writes the value of one field, for a response body. An unset message is null. */
  field(message: Message, field: DescField): string {
    const value = held(message as unknown as Fields, field);
    return value === undefined ? 'null' : this.#value(field)(value);
  }

  #object(desc: DescMessage): (message: Message) => string {
    const { alwaysImplicit, protoNames } = this.#options;
    const members = desc.fields.map((field) => {
      const name = `${JSON.stringify(protoNames ? field.name : field.jsonName)}:`;
      const write = this.#value(field);
      const always = typeof alwaysImplicit === 'function' ? alwaysImplicit(field) : alwaysImplicit;
      if (always && isImplicit(field)) return (message: Fields) => name + write(message[field.localName]);
      return (message: Fields) => (isSet(message, field) ? name + write(held(message, field)) : '');
    });
    return (message) => {
      let text = '{';
      for (const member of members) {
        const part = member(message as unknown as Fields);
        if (part !== '') text += text === '{' ? part : `,${part}`;
      }
      return `${text}}`;
    };
  }

  #value(field: DescField): Write {
    let write = this.#values.get(field);
    if (write === undefined) {
      const element = this.#element(field);
      write = field.fieldKind === 'list' ? listOf(element) : field.fieldKind === 'map' ? mapOf(element) : element;
      this.#values.set(field, write);
    }
    return write;
  }

  #element(field: DescField): Write {
    const { message, enum: enumeration, scalar } = field;
    if (enumeration !== undefined) return this.#enum(enumeration);
    if (message === undefined) return this.#scalar(scalar ?? ScalarType.STRING);
    // Generated code holds a singular wrapper as its bare value, and a Struct as the JSON object.
    if (field.fieldKind === 'message' && field.oneof === undefined && isWrapperDesc(message))
      return this.#scalar(message.fields[0]?.scalar ?? ScalarType.STRING);
    if (message.typeName === 'google.protobuf.Struct') return JSON.stringify;
    return (value) => this.message(message, value as Message);
  }

  #enum(desc: DescEnum): Write {
    if (desc.typeName === 'google.protobuf.NullValue') return () => 'null';
    if (this.#options.enumsAsNumbers) return String;
    // The first name wins when two names have one number.
    const names = new Map(desc.values.toReversed().map((value) => [value.number, JSON.stringify(value.name)]));
    return (value) => names.get(value as number) ?? String(value);
  }

  #scalar(type: ScalarType): Write {
    if (isLong(type)) return this.#options.longsAsNumbers ? String : (value) => `"${value}"`;
    switch (type) {
      case ScalarType.STRING:
        return JSON.stringify;
      case ScalarType.BYTES:
        return (value) => {
          const bytes = value as Uint8Array;
          return `"${Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')}"`;
        };
      case ScalarType.DOUBLE:
      case ScalarType.FLOAT:
        return (value) => (Number.isFinite(value) ? (Object.is(value, -0) ? '-0' : String(value)) : `"${value}"`);
      default:
        return String;
    }
  }

  #wellKnown(desc: DescMessage): (message: Message) => string {
    if (isWrapperDesc(desc)) {
      const write = this.#scalar(desc.fields[0]?.scalar ?? ScalarType.STRING);
      return (message) => write((message as unknown as Fields).value);
    }
    const { registry } = this.#options;
    return (message) => JSON.stringify(toJson(desc, message, registry === undefined ? {} : { registry }));
  }
}

function listOf(element: Write): Write {
  return (value) => {
    let text = '[';
    for (const each of value as unknown[]) text += text === '[' ? element(each) : `,${element(each)}`;
    return `${text}]`;
  };
}

function mapOf(element: Write): Write {
  return (value) => {
    const members = Object.entries(value as Fields).map(([key, each]) => `${JSON.stringify(key)}:${element(each)}`);
    return `{${members.join(',')}}`;
  };
}
