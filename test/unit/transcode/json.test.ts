import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  create,
  type DescField,
  type DescMessage,
  equals,
  fromJson,
  type JsonValue,
  type Message,
  type MessageInitShape,
  ScalarType,
  toJson,
} from '@bufbuild/protobuf';
import fc from 'fast-check';
import { Faults } from '../../../src/transcode/error.ts';
import { JsonReader } from '../../../src/transcode/json-reader.ts';
import { parseJson } from '../../../src/transcode/json-text.ts';
import { JsonWriter } from '../../../src/transcode/json-writer.ts';
import { seedOf } from '../../support/seed.ts';
import { registry, Thing } from './schema.ts';

const wide = { min: -(2n ** 63n), max: 2n ** 63n - 1n };
const text = fc.string({ unit: 'binary' });

function scalarOf(type: ScalarType): fc.Arbitrary<unknown> {
  switch (type) {
    case ScalarType.STRING:
      return text;
    case ScalarType.BOOL:
      return fc.boolean();
    case ScalarType.BYTES:
      return fc.uint8Array({ maxLength: 20 });
    case ScalarType.FLOAT:
      return fc.float({ noNaN: true });
    case ScalarType.DOUBLE:
      return fc.double({ noNaN: true });
    case ScalarType.INT64:
    case ScalarType.SINT64:
    case ScalarType.SFIXED64:
      return fc.bigInt(wide);
    case ScalarType.UINT64:
    case ScalarType.FIXED64:
      return fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
    case ScalarType.UINT32:
    case ScalarType.FIXED32:
      return fc.nat({ max: 2 ** 32 - 1 });
    default:
      return fc.integer();
  }
}

/**
 * Any value of a type, as the plain shape that `create` takes. Types with their own JSON form are
 * left to protobuf-es: rules.test.ts covers them.
 */
function messageOf(desc: DescMessage, depth: number): fc.Arbitrary<object> {
  const members: Record<string, fc.Arbitrary<unknown>> = {};
  for (const field of desc.fields) {
    const value = fieldOf(field, depth);
    if (value === undefined) continue;
    if (field.oneof === undefined) members[field.localName] = value;
    else {
      const chosen = value.map((each) => ({ case: field.localName, value: each }));
      const others = members[field.oneof.localName];
      members[field.oneof.localName] = others === undefined ? chosen : fc.oneof(others, chosen);
    }
  }
  return fc.record(members, { requiredKeys: [] });
}

function fieldOf(field: DescField, depth: number): fc.Arbitrary<unknown> | undefined {
  const element = elementOf(field, depth);
  if (element === undefined) return undefined;
  if (field.fieldKind === 'list') return fc.array(element, { maxLength: 3 });
  if (field.fieldKind !== 'map') return element;
  const key = scalarOf(field.mapKey).map(String);
  return fc.dictionary(key, element, { maxKeys: 3 });
}

function elementOf(field: DescField, depth: number): fc.Arbitrary<unknown> | undefined {
  if (field.enum !== undefined) return fc.constantFrom(...field.enum.values.map((value) => value.number));
  if (field.message === undefined) {
    const scalar = scalarOf(field.scalar ?? ScalarType.STRING);
    return field.fieldKind !== 'map' && 'longAsString' in field && field.longAsString ? scalar.map(String) : scalar;
  }
  if (field.message.typeName.startsWith('google.protobuf.') || depth === 0) return undefined;
  return messageOf(field.message, depth - 1);
}

const things = messageOf(Thing, 2).map((init) => create(Thing, init as MessageInitShape<typeof Thing>));
const protoJson = { protoNames: false, longsAsNumbers: false, enumsAsNumbers: false, alwaysImplicit: false };

function read(json: unknown, strictNumbers = false): Message {
  const faults = new Faults();
  const message = new JsonReader({ strictNumbers, strictFields: true, anyCase: false, registry }).message(
    Thing,
    json,
    undefined,
    faults,
  );
  faults.settle();
  return message;
}

describe('any message', () => {
  test('any message is written as protobuf-es writes it', (context) => {
    const writer = new JsonWriter({ ...protoJson, registry });
    fc.assert(
      fc.property(things, (thing) =>
        assert.deepEqual(plain(JSON.parse(writer.message(Thing, thing))), plain(toJson(Thing, thing, { registry }))),
      ),
      { seed: seedOf(context), numRuns: 300 },
    );
  });

  test('any message is read as protobuf-es reads it', (context) => {
    fc.assert(
      fc.property(things, (thing) => {
        const json = toJson(Thing, thing, { registry });
        assert.ok(equals(Thing, read(json), fromJson(Thing, json, { registry })));
      }),
      { seed: seedOf(context), numRuns: 300 },
    );
  });

  test('any message survives a round trip through JSON, with every writing option', (context) => {
    fc.assert(
      fc.property(things, fc.boolean(), fc.boolean(), fc.boolean(), (thing, protoNames, enumsAsNumbers, always) => {
        const writer = new JsonWriter({
          protoNames,
          enumsAsNumbers,
          alwaysImplicit: always,
          longsAsNumbers: false,
          registry,
        });
        const json = parseJson(Buffer.from(writer.message(Thing, thing)));
        assert.ok(equals(Thing, read(json, true), thing));
      }),
      { seed: seedOf(context), numRuns: 300 },
    );
  });
});

describe('any JSON', () => {
  test('any JSON is accepted or refused with a field named; accepted JSON is read as protobuf-es reads it', (context) => {
    const names = Thing.fields.flatMap((field) => [field.name, field.jsonName]);
    const bodies = fc.dictionary(fc.constantFrom(...names), fc.jsonValue({ maxDepth: 3 }), { maxKeys: 5 });
    fc.assert(
      fc.property(bodies, (json) => {
        let message: Message;
        try {
          message = read(json);
        } catch (error) {
          assert.equal((error as { httpStatus?: number }).httpStatus, 400, String(error));
          return;
        }
        assert.ok(equals(Thing, message, fromJson(Thing, withoutNullChoices(json), { registry })));
      }),
      { seed: seedOf(context), numRuns: 2000 },
    );
  });
});

/**
 * Null is unset, also for a member of a oneof with another member set, which protobuf-es counts as
 * two members.
 */
function withoutNullChoices(json: Record<string, unknown>): JsonValue {
  const isChoice = (name: string) =>
    Thing.fields.some(
      (field) =>
        field.oneof !== undefined && field.name !== 'choice_null' && [field.name, field.jsonName].includes(name),
    );
  return Object.fromEntries(
    Object.entries(json).filter(([name, value]) => value !== null || !isChoice(name)),
  ) as JsonValue;
}

/** The value after a round trip through text, which has no -0 here and no prototype. */
function plain(json: JsonValue): JsonValue {
  return JSON.parse(JSON.stringify(json));
}
