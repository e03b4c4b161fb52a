import { type DescField, isFieldSet, type Message } from '@bufbuild/protobuf';
import { FeatureSet_FieldPresence } from '@bufbuild/protobuf/wkt';
import type { Faults, Place } from './error.ts';

/** A message in the form of generated code, or a JSON object: values by member name. */
export type Fields = Record<string, unknown>;

export function isJsonObject(json: unknown): json is Fields {
  return typeof json === 'object' && json !== null && !Array.isArray(json);
}

/** Returns the value of a field; undefined when it is unset. */
export function held(message: Fields, field: DescField): unknown {
  if (field.oneof === undefined) return message[field.localName];
  const chosen = message[field.oneof.localName] as { case?: string; value?: unknown };
  return chosen.case === field.localName ? chosen.value : undefined;
}

/** Whether a field is set; without presence, whether it differs from its default. */
export function isSet(message: Fields, field: DescField): boolean {
  return isFieldSet(message as unknown as Message, field);
}

export type Put = (target: Fields, value: unknown, at: Place | undefined, faults: Faults) => void;

/** Returns a function that sets a field. A second member of a oneof is refused. */
export function putter(field: DescField): Put {
  const { oneof, localName } = field;
  if (oneof === undefined) {
    return (target, value) => {
      target[localName] = value;
    };
  }
  return (target, value, at, faults) => {
    const { case: taken } = target[oneof.localName] as { case?: string };
    if (taken !== undefined && taken !== localName)
      faults.addAt(
        at,
        field.name,
        `must not be set together with ${nameOf(field, taken)}; set only one of ${oneof.name}`,
      );
    else target[oneof.localName] = { case: localName, value };
  };
}

function nameOf({ oneof }: DescField, localName: string): string {
  return oneof?.fields.find((each) => each.localName === localName)?.name ?? localName;
}

/** Whether null is a value of the field, rather than its absence. */
export function takesNull(field: DescField): boolean {
  return (
    field.fieldKind !== 'list' &&
    field.fieldKind !== 'map' &&
    (field.message?.typeName === 'google.protobuf.Value' || field.enum?.typeName === 'google.protobuf.NullValue')
  );
}

/**
 * Whether a field always has a value: proto3 scalars and enums that are not `optional`, lists and
 * maps.
 */
export function isImplicit(field: DescField): boolean {
  if (field.fieldKind === 'list' || field.fieldKind === 'map') return true;
  return field.oneof === undefined && field.presence === FeatureSet_FieldPresence.IMPLICIT;
}
