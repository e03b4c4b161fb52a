import { type DescEnum, ScalarType } from '@bufbuild/protobuf';
import { quoted, type Scalar, scalarOfJson, scalarOfText, wrong } from './scalar.ts';

interface Names {
  readonly exact: ReadonlyMap<string, number>;
  /** In upper case, with and without the shared prefix. */
  readonly loose: ReadonlyMap<string, number>;
}

const compiled = new WeakMap<DescEnum, Names>();

function namesOf(desc: DescEnum): Names {
  let names = compiled.get(desc);
  if (names === undefined) {
    const exact = new Map(desc.values.map((value) => [value.name, value.number]));
    const loose = new Map<string, number>();
    const prefix = (desc.sharedPrefix ?? '').toUpperCase();
    // A whole name goes before another one without its prefix: A_A_B is not meant by A_B when there is an A_B.
    for (const skip of [prefix.length, 0])
      for (const value of desc.values.toReversed()) loose.set(value.name.toUpperCase().slice(skip), value.number);
    names = { exact, loose };
    compiled.set(desc, names);
  }
  return names;
}

/** A value's name for people: in lower case, without the prefix that all names of its enum share. */
export function shortNameOf({ sharedPrefix = '' }: DescEnum, name: string): string {
  return name.slice(sharedPrefix.length).toLowerCase();
}

/** An enum in JSON: its number (any 32-bit one: enums are open), or its name as in a path or a query: `{"priority": "high"}` means what `?priority=high` does. */
export function enumOfJson(desc: DescEnum, json: unknown): Scalar {
  if (typeof json === 'number') return scalarOfJson(ScalarType.INT32, json, true);
  // NullValue is the enum whose one value is null.
  if (json === null && desc.typeName === 'google.protobuf.NullValue') return { value: 0 };
  if (typeof json !== 'string') return wrong(`a name or a number of ${desc.name}`, json);
  return enumOfName(desc, json);
}

/** An enum in a path or a query: its number, or its name in any case, with or without the prefix that all of its names share. */
export function enumOfText(desc: DescEnum, text: string): Scalar {
  if (/^-?\d+$/.test(text)) return scalarOfText(ScalarType.INT32, text);
  return enumOfName(desc, text);
}

function enumOfName(desc: DescEnum, text: string): Scalar {
  const { exact, loose } = namesOf(desc);
  const value = exact.get(text) ?? loose.get(text.toUpperCase());
  if (value !== undefined) return { value };
  const names = desc.values
    .map(({ name }) => shortNameOf(desc, name))
    .filter((name) => name !== 'unspecified')
    .join(', ');
  return { fault: `must be one of ${names}, or its number, not ${quoted(text)}` };
}
