import { type DescEnum, type DescEnumValue, type DescField, type DescMessage, ScalarType } from '@bufbuild/protobuf';
import { isWrapperDesc } from '@bufbuild/protobuf/wkt';
import { isImplicit, isLong, isWellKnown, shortNameOf } from '../transcode/index.ts';
import { type Keywords, messageRulesOf, ofBytes, rulesOf } from './rules.ts';

export type Schema = Keywords;
/** The direction of a value: requests accept more than answers contain. */
export type Way = 'input' | 'output';

export interface SchemaOptions {
  readonly comments: Readonly<Record<string, string>>;
  /** Whether answers include a field without presence even when it has its default. */
  readonly alwaysWritten: (field: DescField) => boolean;
  /** The messages of answers. */
  readonly answers: readonly DescMessage[];
}

/** Creates the schemas of messages and enums, each once under its name. */
export interface Schemas {
  message(desc: DescMessage, way: Way): Schema;
  field(field: DescField, way: Way): Schema;
  /** Returns an object with a message's fields, except some. */
  without(desc: DescMessage, omitted: ReadonlySet<DescField>): Schema;
  /** Returns a field as a string of a path or a query. */
  text(field: DescField): Schema;
  readonly components: Readonly<Record<string, Schema>>;
}

const greatest = Number.MAX_SAFE_INTEGER;

/** The well-known types in ProtoJSON. */
const wellKnown: Readonly<Record<string, Schema>> = {
  'google.protobuf.Timestamp': { type: 'string', format: 'date-time' },
  'google.protobuf.Duration': { type: 'string', pattern: '^-?[0-9]+(\\.[0-9]{1,9})?s$' },
  'google.protobuf.FieldMask': { type: 'string' },
  'google.protobuf.Struct': { type: 'object' },
  'google.protobuf.Value': {},
  'google.protobuf.ListValue': { type: 'array', items: {} },
  'google.protobuf.Empty': { type: 'object' },
  'google.protobuf.Any': {
    type: 'object',
    properties: { '@type': { type: 'string', description: 'The type URL of the other members.' } },
    required: ['@type'],
    additionalProperties: true,
  },
};

export function createSchemas({ comments, alwaysWritten, answers }: SchemaOptions): Schemas {
  const components: Record<string, Schema> = {};
  const named = new Map<string, DescMessage | DescEnum>();
  const answered = new Set<DescMessage | DescEnum>();
  for (const each of answers) gather(each, answered);

  /** A type used in both requests and answers has two schemas. */
  const refer = (desc: DescMessage | DescEnum, way: Way, make: () => Schema): Schema => {
    const plain = desc.typeName.slice(desc.file.proto.package.length + 1);
    const name = way === 'input' && answered.has(desc) ? `${plain}Input` : plain;
    const other = named.get(name);
    if (other !== undefined && other !== desc)
      throw new Error(`openapi: ${other.typeName} and ${desc.typeName} have one name`);
    if (other === undefined) {
      named.set(name, desc);
      components[name] = {};
      components[name] = make();
    }
    return { $ref: `#/components/schemas/${name}` };
  };

  const message = (desc: DescMessage, way: Way): Schema => {
    if (isWrapperDesc(desc)) return scalar(desc.fields[0]?.scalar ?? ScalarType.STRING, way);
    if (isWellKnown(desc)) return wellKnown[desc.typeName] ?? {};
    return refer(desc, way, () => object(desc, way, new Set()));
  };

  const object = (desc: DescMessage, way: Way, omitted: ReadonlySet<DescField>): Schema => {
    const fields = desc.fields.filter((field) => !omitted.has(field));
    const required = fields.filter((field) =>
      way === 'output' ? isImplicit(field) && alwaysWritten(field) : rulesOf(field).required,
    );
    const rules = way === 'input' ? messageRulesOf(desc) : [];
    const description = [comments[desc.typeName] ?? '', ...rules.map((rule) => `- ${rule}`)].join('\n').trim();
    return {
      type: 'object',
      ...(description === '' ? {} : { description }),
      properties: Object.fromEntries(fields.map((each) => [each.name, property(each, way)])),
      ...(required.length === 0 ? {} : { required: required.map((each) => each.name) }),
    };
  };

  const enumeration = (desc: DescEnum, way: Way): Schema =>
    refer(desc, way, () => {
      const lines = desc.values.map(
        ({ name, number }) => `- ${number} \`${name}\`: ${comments[`${desc.typeName}.${name}`] ?? ''}`,
      );
      const numbers = desc.values.map(({ number }) => number);
      const description = [comments[desc.typeName] ?? '', '', ...lines].join('\n').trim();
      return way === 'output'
        ? { type: 'integer', enum: numbers, description }
        : { type: ['integer', 'string'], enum: [...numbers, ...namesOf(desc.values, desc)], description };
    });

  const element = (each: DescField, way: Way, rules: Keywords): Schema => {
    const checks = way === 'input' ? ofBytes(each, rules) : {};
    if (each.message !== undefined) return { ...message(each.message, way), ...checks };
    if (each.enum !== undefined) return { ...enumeration(each.enum, way), ...withNames(each.enum, checks) };
    return { ...scalar(each.scalar ?? ScalarType.STRING, way), ...checks };
  };

  /** Null means an absent field, but is not valid as an element of a list or a map. */
  const property = (each: DescField, way: Way): Schema => {
    const schema = field(each, way);
    return way === 'output' || rulesOf(each).required ? schema : nullable(schema);
  };

  const field = (each: DescField, way: Way): Schema => {
    const { keywords, items } = rulesOf(each);
    const comment = comments[`${each.parent.typeName}.${each.name}`];
    const description = comment === undefined ? {} : { description: comment };
    if (each.fieldKind === 'list')
      return {
        type: 'array',
        ...description,
        items: element(each, way, items),
        ...(way === 'input' ? keywords : {}),
      };
    if (each.fieldKind === 'map')
      return { type: 'object', ...description, additionalProperties: element(each, way, {}) };
    return { ...element(each, way, keywords), ...description };
  };

  return {
    message,
    field,
    without: (desc, omitted) => object(desc, 'input', omitted),
    text(each) {
      const { description, ...schema } = field(each, 'input');
      if (each.fieldKind === 'list') {
        return { ...schema, items: textOfEnum(each.enum) ?? schema.items };
      }
      return each.enum === undefined ? schema : { ...textOfEnum(each.enum, rulesOf(each).keywords.not as Not) };
    },
    components,
  };
}

/** Returns a schema that also accepts null. A schema without a type does so already. */
function nullable({ description, ...schema }: Schema): Schema {
  const words = description === undefined ? {} : { description };
  if (schema.$ref !== undefined) return { anyOf: [schema, { type: 'null' }], ...words };
  return schema.type === undefined
    ? { ...schema, ...words }
    : { ...schema, type: [schema.type, 'null'].flat(), ...words };
}

type Not = { readonly enum: readonly number[] } | undefined;

/**
 * Describes an enum in a path or a query: numbers and short names. Other spellings are accepted too
 * but not listed.
 */
function textOfEnum(desc: DescEnum | undefined, not?: Not): Schema | undefined {
  if (desc === undefined) return undefined;
  const values = desc.values.filter((value) => not?.enum.includes(value.number) !== true);
  return { type: ['integer', 'string'], enum: [...values.map((value) => value.number), ...shortNames(values, desc)] };
}

function shortNames(values: readonly DescEnumValue[], desc: DescEnum): string[] {
  return values.map(({ name }) => shortNameOf(desc, name));
}

/** A body accepts the short names and the full ones, as ProtoJSON writes them. */
function namesOf(values: readonly DescEnumValue[], desc: DescEnum): string[] {
  return [...new Set([...shortNames(values, desc), ...values.map(({ name }) => name)])];
}

/** Collects a message and all types in it. */
function gather(desc: DescMessage, seen: Set<DescMessage | DescEnum>): void {
  if (seen.has(desc)) return;
  seen.add(desc);
  for (const each of desc.fields) {
    if (each.enum !== undefined) seen.add(each.enum);
    if (each.message !== undefined) gather(each.message, seen);
  }
}

/** Extends a rule about an enum's numbers to its names. */
function withNames(desc: DescEnum, { not, ...rest }: Keywords): Keywords {
  if (not === undefined) return rest;
  const numbers = (not as { enum: readonly number[] }).enum;
  const values = desc.values.filter((value) => numbers.includes(value.number));
  return { ...rest, not: { enum: [...numbers, ...namesOf(values, desc)] } };
}

function scalar(type: ScalarType, way: Way): Schema {
  switch (type) {
    case ScalarType.BOOL:
      return { type: 'boolean' };
    case ScalarType.STRING:
      return { type: 'string' };
    case ScalarType.BYTES:
      return { type: 'string', contentEncoding: 'base64' };
    case ScalarType.DOUBLE:
    case ScalarType.FLOAT:
      return { type: ['number', 'string'] };
    default: {
      const isSigned = ![ScalarType.UINT32, ScalarType.UINT64, ScalarType.FIXED32, ScalarType.FIXED64].includes(type);
      if (!isLong(type))
        return isSigned
          ? { type: 'integer', minimum: -(2 ** 31), maximum: 2 ** 31 - 1 }
          : { type: 'integer', minimum: 0, maximum: 2 ** 32 - 1 };
      const bounds = { minimum: isSigned ? -greatest : 0, maximum: greatest };
      // A string may be any 64-bit integer.
      return way === 'output'
        ? { type: 'integer', ...bounds }
        : { type: ['integer', 'string'], ...bounds, pattern: isSigned ? '^-?[0-9]+$' : '^[0-9]+$' };
    }
  }
}
