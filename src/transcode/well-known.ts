import { create, type DescMessage, fromJson, type JsonValue, type Message, type Registry } from '@bufbuild/protobuf';
import { AnySchema, anyPack, hasCustomJsonRepresentation } from '@bufbuild/protobuf/wkt';
import { type Faults, type Place, type Step, stepOf } from './error.ts';
import { lossyOf } from './numbers.ts';
import { kindOf, quoted } from './scalar.ts';
import { isExact } from './well-known-text.ts';

/** Types with a JSON form of their own. */
export { hasCustomJsonRepresentation as isWellKnown } from '@bufbuild/protobuf/wkt';

/** Examples for the types that people write by hand, used in errors. */
export const jsonForms: Readonly<Record<string, string>> = {
  'google.protobuf.Timestamp': 'a valid time, such as "2026-01-31T12:00:00Z"',
  'google.protobuf.Duration': 'a duration such as "1.5s"',
  'google.protobuf.Struct': 'an object',
};

type ReadMessage = (desc: DescMessage, json: unknown, at: Place, faults: Faults) => Message | undefined;

/**
 * Reads a well-known type from its JSON form with protobuf-es; undefined after reporting a fault.
 */
export function readWellKnown(
  desc: DescMessage,
  json: unknown,
  parent: Place | undefined,
  step: Step,
  faults: Faults,
): Message | undefined {
  try {
    if (!isExact(desc.typeName, json)) throw new Error('it does not exist');
    return fromJson(desc, json as JsonValue);
  } catch (error) {
    const form = jsonForms[desc.typeName];
    if (form !== undefined) {
      faults.addAt(parent, step, `must be ${form}, not ${typeof json === 'string' ? quoted(json) : kindOf(json)}`);
      return undefined;
    }
    const why = (error instanceof Error ? error.message : String(error))
      .replace(/^cannot decode (?:message|field) [\w.]+ from JSON:? ?/, '')
      .slice(0, 128);
    faults.addAt(parent, step, `is not a ${desc.typeName} in JSON: ${why === '' ? kindOf(json) : why}`);
    return undefined;
  }
}

/**
 * Returns where and why a Struct, Value or ListValue could not be written again unchanged;
 * undefined when it can. Protobuf has no unpaired surrogates, JSON no 1e999, and a double no more
 * than its digits.
 */
export function whyNotKept(json: unknown, at: Place): { readonly at: Place; readonly fault: string } | undefined {
  if (typeof json === 'string')
    return json.isWellFormed() ? undefined : { at, fault: 'must be valid Unicode; it has an unpaired surrogate' };
  if (typeof json === 'number') return numberFault(json, at);
  if (typeof json !== 'object' || json === null) return undefined;
  const isArray = Array.isArray(json);
  const lossy = lossyOf(json);
  for (const key of Object.keys(json)) {
    const step = isArray ? Number(key) : stepOf(key);
    const inner = { parent: at, step };
    if (!key.isWellFormed()) return { at: inner, fault: 'must be valid Unicode; it has an unpaired surrogate' };
    const found = whyNotKept((json as Record<string, unknown>)[key], inner);
    if (found !== undefined) return found;
    if (lossy?.has(key)) return { at: inner, fault: 'has more digits than a double holds; send it as a string' };
  }
  return undefined;
}

function numberFault(value: number, at: Place): { readonly at: Place; readonly fault: string } | undefined {
  if (!Number.isFinite(value)) return { at, fault: 'is out of range' };
  if (Number.isInteger(value) && !Number.isSafeInteger(value))
    return { at, fault: 'is an integer above 2^53, which loses digits; send it as a string' };
  return undefined;
}

/** Reads an Any. Its message is read by the same rules, so its faults have paths too. */
export function readAny(
  json: unknown,
  at: Place,
  faults: Faults,
  registry: Registry | undefined,
  readMessage: ReadMessage,
): Message | undefined {
  const fault = (step: Step, description: string) => void faults.addAt(at, step, description);
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    return void faults.addAt(at.parent, at.step, `must be an object with @type, not ${kindOf(json)}`);
  const { '@type': typeUrl, ...rest } = json as Record<string, unknown>;
  if (typeUrl === undefined && Object.keys(rest).length === 0) return create(AnySchema);
  if (typeof typeUrl !== 'string') return fault('@type', 'is required: the URL of the type');
  const desc = registry?.getMessage(typeUrl.slice(typeUrl.lastIndexOf('/') + 1));
  if (desc === undefined || !typeUrl.includes('/')) return fault('@type', 'names an unknown type');
  const message = hasCustomJsonRepresentation(desc)
    ? readMessage(desc, rest.value, { parent: at, step: 'value' }, faults)
    : readMessage(desc, rest, at, faults);
  if (message === undefined) return undefined;
  try {
    return Object.assign(anyPack(desc, message), { typeUrl });
  } catch {
    // A message with faults cannot always be packed; the caller gets the faults.
    return undefined;
  }
}
