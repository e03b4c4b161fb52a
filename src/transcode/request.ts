import { create, type Message } from '@bufbuild/protobuf';
import type { Binding } from './binding.ts';
import { Faults, TranscodeError } from './error.ts';
import type { JsonReader } from './json-reader.ts';
import { readQuery } from './query.ts';
import { kindOf } from './scalar.ts';
import type { Slices } from './slices.ts';
import { setFromTexts } from './target.ts';
import { capture } from './template.ts';

/** The parts of a request. */
export interface Parts {
  /** Undefined when the body is empty or the route takes none. */
  readonly json: unknown;
  readonly segments: readonly string[];
  readonly search: string;
}

/**
 * Chooses among routes of one path by the JSON root of the body. An empty body counts as an empty
 * object, as callers without arguments send it; it never counts as a list.
 */
export function chooseByRoot(candidates: readonly Binding[], json: unknown): Binding {
  const [first] = candidates;
  if (first === undefined) throw new Error('a route without a binding');
  if (candidates.length === 1 && first.root !== 'array' && first.root !== 'object') return first;
  const root =
    json === undefined ? 'object' : Array.isArray(json) ? 'array' : kindOf(json) === 'an object' ? 'object' : 'other';
  const chosen = candidates.find((each) => each.root === root);
  if (chosen !== undefined) return chosen;
  const taken = candidates.map((each) => `an ${each.root}`).join(' or ');
  throw new TranscodeError(
    400,
    `the body must be ${taken} in JSON, not ${json === undefined ? 'empty' : kindOf(json)}`,
  );
}

/**
 * Builds the request message from the body, then the path, then the query; each sets only fields
 * that the others do not bind. Throws one error that names every fault.
 *
 * With `slices` the body is large and read in slices; with `message` it has been read.
 */
export function readRequest(
  binding: Binding,
  parts: Parts,
  reader: JsonReader,
  { strictQuery, slices, message }: { strictQuery: boolean; slices: Slices | undefined; message: Message | undefined },
): Message | Promise<Message> {
  const faults = new Faults();
  if (message !== undefined || slices === undefined) {
    const read = message ?? readBodyOf(binding, parts.json, reader, faults);
    return completed(read, binding, parts, { strictQuery, faults });
  }
  return readLargeBodyOf(binding, parts.json, reader, { faults, slices }).then((read) =>
    completed(read, binding, parts, { strictQuery, faults }),
  );
}

/** Sets the fields of path and query in a message that was read from the body. */
function completed(
  message: Message,
  binding: Binding,
  { segments, search }: Parts,
  { strictQuery, faults }: { strictQuery: boolean; faults: Faults },
): Message {
  const { template, variables } = binding;
  for (const { variable, target } of variables)
    setFromTexts(message, target, [capture(variable, template, segments)], faults, 'path');
  if (search !== '') readQuery(message, binding, search, strictQuery, faults);
  faults.settle();
  return message;
}

function readBodyOf({ body, method }: Binding, json: unknown, reader: JsonReader, faults: Faults): Message {
  if (body.kind === 'whole' && json !== undefined) return reader.message(method.input, json, undefined, faults);
  const message = create(method.input);
  if (body.kind === 'field' && json !== undefined) reader.field(message, body.field, json, faults);
  return message;
}

async function readLargeBodyOf(
  { body, method }: Binding,
  json: unknown,
  reader: JsonReader,
  { faults, slices }: { faults: Faults; slices: Slices },
): Promise<Message> {
  if (body.kind === 'whole') return await reader.messageInSlices(method.input, json, faults, slices);
  const message = create(method.input);
  if (body.kind === 'field') await reader.fieldInSlices(message, body.field, json, faults, slices);
  return message;
}
