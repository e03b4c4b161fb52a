import { type DescField, type DescMessage, getOption, ScalarType } from '@bufbuild/protobuf';
import { WireType } from '@bufbuild/protobuf/wire';
import { field as fieldRules } from '@bufbuild/protovalidate/gen/buf/validate/validate_pb.js';
import { maxTextLength } from '../transcode/index.ts';

/** Thrown for bytes that are not a message; the parser says why. */
export class InvalidProtobuf extends Error {}

/**
 * Estimated bytes of memory per message, per google.protobuf.Struct value, per field, and per
 * unknown field: half of V8's maximum.
 */
const messageBytes = 20;
const jsonBytes = 50;
const fieldBytes = 15;
const unknownBytes = 160;
/** Maximum nesting, as in Protobuf's own parsers. */
const maxDepth = 100;
/** Fields between two checks of the clock, about 0.3 ms. */
const stepFields = 4096;

interface Plan {
  readonly weightBytes: number;
  /** Indexed by field number. */
  readonly fields: (FieldPlan | undefined)[];
}

interface FieldPlan {
  readonly name: string;
  readonly message: Plan | undefined;
  readonly isList: boolean;
  readonly isText: boolean;
  /** Maximum number of elements by the list's rule. */
  readonly maxCount: number;
  /** Wire type of one value. */
  readonly wire: WireType;
  /** How elements of a packed list are counted: by varint ends, or by fixed size. */
  readonly packed: 'varint' | 4 | 8 | undefined;
}

const plans = new Map<DescMessage, Plan>();

function planOf(desc: DescMessage): Plan {
  const known = plans.get(desc);
  if (known !== undefined) return known;
  const fields: Plan['fields'] = [];
  const plan = { weightBytes: isJson(desc) ? jsonBytes : messageBytes, fields };
  plans.set(desc, plan);
  for (const field of desc.fields) {
    const message = field.fieldKind === 'map' ? entryPlan(field) : field.message && planOf(field.message);
    const isList = field.fieldKind === 'list';
    const packed = isList ? packedOf(field) : undefined;
    if (field.number <= maxFieldNumber)
      fields[field.number] = {
        name: field.name,
        message,
        isList,
        isText: field.scalar === ScalarType.STRING && field.fieldKind !== 'map' && !isJson(desc),
        maxCount: maxElements(field),
        wire: wireOf(field),
        packed,
      };
  }
  return plan;
}

/**
 * Fields with higher numbers would make plans large. No message here has one; they count as
 * unknown.
 */
const maxFieldNumber = 1000;

function isJson({ typeName }: DescMessage): boolean {
  return /^google\.protobuf\.(Struct|Value|ListValue)$/.test(typeName);
}

/** A map entry is a message with a key and a value. */
function entryPlan(field: DescField & { fieldKind: 'map' }): Plan {
  const one = { isList: false, isText: false, maxCount: Infinity, packed: undefined };
  const key: FieldPlan = { ...one, name: 'key', message: undefined, wire: wireOfScalar(field.mapKey) };
  const { message, scalar, enum: enumeration } = field;
  const wire = wireOf({ message, scalar, enum: enumeration });
  const value: FieldPlan = { ...one, name: 'value', message: message && planOf(message), wire };
  return { weightBytes: jsonBytes, fields: [undefined, key, value] };
}

function wireOf({ scalar, enum: enumeration }: Pick<DescField, 'scalar' | 'enum' | 'message'>): WireType {
  if (enumeration !== undefined) return WireType.Varint;
  return scalar === undefined ? WireType.LengthDelimited : wireOfScalar(scalar);
}

function wireOfScalar(scalar: ScalarType): WireType {
  switch (scalar) {
    case ScalarType.STRING:
    case ScalarType.BYTES:
      return WireType.LengthDelimited;
    case ScalarType.FIXED32:
    case ScalarType.SFIXED32:
    case ScalarType.FLOAT:
      return WireType.Bit32;
    case ScalarType.FIXED64:
    case ScalarType.SFIXED64:
    case ScalarType.DOUBLE:
      return WireType.Bit64;
    default:
      return WireType.Varint;
  }
}

/** The `max_items` rule of a list. */
export function maxElements(field: DescField): number {
  if (field.fieldKind !== 'list') return Infinity;
  const rules = getOption(field, fieldRules).type;
  return rules.case === 'repeated' ? Number(rules.value.maxItems) || Infinity : Infinity;
}

function packedOf({ scalar, enum: enumeration }: DescField): FieldPlan['packed'] {
  if (enumeration !== undefined) return 'varint';
  switch (scalar) {
    case undefined:
    case ScalarType.STRING:
    case ScalarType.BYTES:
      return undefined;
    case ScalarType.FIXED32:
    case ScalarType.SFIXED32:
    case ScalarType.FLOAT:
      return 4;
    case ScalarType.FIXED64:
    case ScalarType.SFIXED64:
    case ScalarType.DOUBLE:
      return 8;
    default:
      return 'varint';
  }
}

/** A message that is being scanned. */
interface OpenMessage {
  readonly plan: Plan;
  readonly end: number;
  /** Elements per list. */
  counts: Map<FieldPlan, number> | undefined;
}

/**
 * Counts what a message holds without building it: 8.4 million empty messages in 16 MiB took the
 * parser 4.9 s and 1.5 GB. Stops at the end of the bytes, or above `mostWeight`.
 */
export class ProtobufScan {
  /** Fields of all messages, including elements of packed lists. */
  fields = 0;
  /** Estimated bytes of memory beyond the encoded bytes. */
  weightBytes = 0;
  /** Maximum number of fields in one element of a root list, or in the rest of the root. */
  maxFieldsInUnit = 0;
  /** The first list with more elements than its rule allows. */
  excess: { readonly field: string; readonly limit: number; readonly actual: number } | undefined;
  /** The first text that is too long. */
  longText: { readonly field: string; readonly actual: number } | undefined;
  readonly #bytes: Uint8Array;
  readonly #mostWeight: number;
  readonly #stack: OpenMessage[] = [];
  #at = 0;
  /** Fields before the current element of a root list, and fields of the root itself. */
  #unitSince = 0;
  #inRoot = 0;

  constructor(desc: DescMessage, bytes: Uint8Array, maxWeightBytes: number) {
    this.#bytes = bytes;
    this.#mostWeight = maxWeightBytes;
    this.#push(planOf(desc), bytes.length);
  }

  /** Scans up to `stepFields` fields; true when done. */
  step(): boolean {
    const stop = this.fields + stepFields;
    for (;;) {
      let open = this.#stack.at(-1);
      while (open !== undefined && this.#at >= open.end) {
        this.#pop(open);
        open = this.#stack.at(-1);
      }
      if (open === undefined) return true;
      if (this.weightBytes > this.#mostWeight) {
        // A list may already exceed its rule here, which is a better error than the weight.
        while (open !== undefined) {
          this.#pop(open);
          open = this.#stack.at(-1);
        }
        return true;
      }
      if (this.fields >= stop) return false;
      this.#field(open);
    }
  }

  #field(open: OpenMessage): void {
    const { plan, end } = open;
    const tag = this.#varint(end);
    const wire = tag & 7;
    this.fields++;
    this.weightBytes += fieldBytes;
    const field = plan.fields[tag >>> 3];
    // protobuf-es reads by the field's type, whatever the wire type: it would find other fields
    // than are counted here.
    if (
      field !== undefined &&
      wire !== field.wire &&
      !(wire === WireType.LengthDelimited && field.packed !== undefined)
    )
      throw new InvalidProtobuf(`the field ${field.name} is written as another type`);
    // Fields of a group, which no message here has, are counted as fields of the enclosing message.
    if (field === undefined) {
      this.weightBytes += unknownBytes;
      this.#skip(wire, end);
      return;
    }
    let elements = 1;
    if (wire !== WireType.LengthDelimited) this.#skip(wire, end);
    else {
      const length = this.#varint(end);
      const stop = this.#at + length;
      if (stop > end) throw new InvalidProtobuf('a field is cut');
      if (field.message !== undefined) this.#push(field.message, stop);
      else {
        if (field.packed !== undefined) {
          elements = this.#packed(field.packed, stop);
          this.fields += elements;
          this.weightBytes += elements * fieldBytes;
        }
        if (field.isText && length > maxTextLength) this.longText ??= { field: field.name, actual: length };
        this.#at = stop;
      }
    }
    if (!field.isList) return;
    open.counts ??= new Map();
    open.counts.set(field, (open.counts.get(field) ?? 0) + elements);
  }

  #push(plan: Plan, end: number): void {
    if (this.#stack.length > maxDepth) throw new InvalidProtobuf(`messages are nested deeper than ${maxDepth} levels`);
    this.weightBytes += plan.weightBytes;
    if (this.#stack.length === 1) this.#unitSince = this.fields;
    this.#stack.push({ plan, end, counts: undefined });
  }

  #pop({ counts }: OpenMessage): void {
    this.#stack.pop();
    if (this.#stack.length === 1) {
      const inUnit = this.fields - this.#unitSince;
      this.#inRoot -= inUnit;
      this.maxFieldsInUnit = Math.max(this.maxFieldsInUnit, inUnit);
    } else if (this.#stack.length === 0)
      this.maxFieldsInUnit = Math.max(this.maxFieldsInUnit, this.#inRoot + this.fields);
    if (counts === undefined) return;
    for (const [{ name, maxCount: most }, actual] of counts)
      if (actual > most) this.excess ??= { field: name, limit: most, actual };
  }

  #varint(end: number): number {
    const bytes = this.#bytes;
    let value = 0;
    for (let scale = 1; scale <= 2 ** 63; scale *= 128) {
      if (this.#at >= end) break;
      const byte = bytes[this.#at++] as number;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
    }
    throw new InvalidProtobuf('a varint is cut or too long');
  }

  #skip(wire: number, end: number): void {
    if (wire === WireType.Varint) this.#varint(end);
    else if (wire === WireType.Bit64) this.#at += 8;
    else if (wire === WireType.Bit32) this.#at += 4;
    else if (wire === WireType.LengthDelimited) this.#at += this.#varint(end);
    else if (wire > WireType.Bit32) throw new InvalidProtobuf('a wire type does not exist');
    if (this.#at > end) throw new InvalidProtobuf('a field is cut');
  }

  #packed(packed: 'varint' | 4 | 8, stop: number): number {
    if (packed !== 'varint') return (stop - this.#at) / packed;
    // Stops where the elements weigh too much: a list of 16 MB would be counted in one step.
    const most = this.#mostWeight / fieldBytes;
    let count = 0;
    for (let index = this.#at; index < stop && count <= most; index++)
      if ((this.#bytes[index] as number) < 0x80) count++;
    return count;
  }
}
