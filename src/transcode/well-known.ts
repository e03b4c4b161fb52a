import { create, type DescMessage, fromJson, type JsonValue, type Message, type Registry } from '@bufbuild/protobuf';
import { AnySchema, anyPack, hasCustomJsonRepresentation } from '@bufbuild/protobuf/wkt';
import { type Faults, type Place, type Step, stepOf } from './error.ts';
import { lossyOf } from './numbers.ts';
import { kindOf, quoted } from './scalar.ts';
import { isExact } from './well-known-text.ts';

/** Types with a JSON form of their own. */
export { hasCustomJsonRepresentation as isWellKnown } from '@bufbuild/protobuf/wkt';

/** What is written in JSON for those that people write by hand. */
export const jsonForms: Readonly<Record<string, string>> = {
  'google.protobuf.Timestamp': 'a valid time, such as "2026-01-31T12:00:00Z"',
  'google.protobuf.Duration': 'a duration such as "1.5s"',
  'google.protobuf.Struct': 'an object',
};

type ReadMessage = (desc: DescMessage, json: unknown, at: Place, faults: Faults) => Message | undefined;

/** A well-known type out of its JSON form, by protobuf-es; undefined when it was at fault. */
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
 * Why a value that a Struct, a Value or a ListValue keeps as it is cannot be written again, and where: Protobuf has no half of a surrogate pair, JSON no
 * 1e999, and a number no more digits than a double. Undefined when it can.
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

/** An Any: its message is read by the same rules as the rest of the request, so that its faults have paths too. */
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
    // A message with faults cannot always be packed; they are what the caller hears of.
    return undefined;
  }
}
