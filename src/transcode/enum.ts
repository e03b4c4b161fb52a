import { type DescEnum, ScalarType } from '@bufbuild/protobuf';
import { quoted, type Scalar, scalarOfJson, scalarOfText, wrong } from './scalar.ts';

interface Names {
  readonly exact: ReadonlyMap<string, number>;
  /** Upper-case names, with and without the shared prefix. */
  readonly loose: ReadonlyMap<string, number>;
}

const compiled = new WeakMap<DescEnum, Names>();
/** No name of a value is longer. */
const nameChars = 1000;

function namesOf(desc: DescEnum): Names {
  let names = compiled.get(desc);
  if (names === undefined) {
    const exact = new Map(desc.values.map((value) => [value.name, value.number]));
    const loose = new Map<string, number>();
    const prefix = (desc.sharedPrefix ?? '').toUpperCase();
    // A full name takes precedence over a shortened one: A_B does not mean A_A_B when A_B exists.
    for (const skip of [prefix.length, 0])
      for (const value of desc.values.toReversed()) loose.set(value.name.toUpperCase().slice(skip), value.number);
    names = { exact, loose };
    compiled.set(desc, names);
  }
  return names;
}

/**
 * Returns a value's short name: lower case, without the prefix that all names of its enum share.
 */
export function shortNameOf({ sharedPrefix = '' }: DescEnum, name: string): string {
  return name.slice(sharedPrefix.length).toLowerCase();
}

/**
 * Reads an enum from JSON: any 32-bit number (enums are open), or a name as in a query.
 * `{"priority": "high"}` equals `?priority=high`.
 */
export function enumOfJson(desc: DescEnum, json: unknown): Scalar {
  if (typeof json === 'number') return scalarOfJson(ScalarType.INT32, json, true);
  // NullValue is the enum whose only value is null.
  if (json === null && desc.typeName === 'google.protobuf.NullValue') return { value: 0 };
  if (typeof json !== 'string') return wrong(`a name or a number of ${desc.name}`, json);
  return enumOfName(desc, json);
}

/**
 * Reads an enum from a path or a query: a number, or a name in any case, with or without the shared
 * prefix.
 */
export function enumOfText(desc: DescEnum, text: string): Scalar {
  if (/^-?\d+$/.test(text)) return scalarOfText(ScalarType.INT32, text);
  return enumOfName(desc, text);
}

function enumOfName(desc: DescEnum, text: string): Scalar {
  const { exact, loose } = namesOf(desc);
  // Hashing a text of 16 MB takes 50 ms.
  const value = text.length > nameChars ? undefined : (exact.get(text) ?? loose.get(text.toUpperCase()));
  if (value !== undefined) return { value };
  const names = desc.values
    .map(({ name }) => shortNameOf(desc, name))
    .filter((name) => name !== 'unspecified')
    .join(', ');
  return { fault: `must be one of ${names}, or its number, not ${quoted(text)}` };
}
