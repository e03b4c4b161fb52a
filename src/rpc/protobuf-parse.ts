import { type DescField, type DescMessage, fromBinary, type Message } from '@bufbuild/protobuf';
import { BinaryReader, WireType } from '@bufbuild/protobuf/wire';
import { SendBatchRequestSchema } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { limits } from '../limits.ts';
import { batchTooLarge, invalidField, ServiceError } from '../messages/service-error.ts';
import { Slices, textTooLong } from '../transcode/index.ts';
import { tooManyElements } from './interceptors/validate.ts';
import { decodePlainProtobuf } from './plain-batch/index.ts';
import { ProtobufScan } from './protobuf-scan.ts';

/** Smaller bodies are parsed without a scan: they hold at most 4,096 fields. */
const scannedBytes = 8 * 1024;
/** At most this many fields are parsed in one step, about 1 ms. */
const fewFields = 2000;

/**
 * Parses a Protobuf message. A large one is scanned first, so that excess elements are refused
 * before they are allocated, and its lists are parsed in slices that yield to other calls. Throws a
 * ServiceError for a message that is too large or invalid.
 */
export function parseProtobuf(desc: DescMessage, bytes: Uint8Array): Message | Promise<Message> {
  const failed = (error: unknown): never => {
    throw error instanceof ServiceError ? error : unreadable(desc, error);
  };
  const plain = desc === SendBatchRequestSchema ? decodePlainProtobuf(bytes) : undefined;
  if (plain !== undefined) return plain;
  if (bytes.length >= scannedBytes) return parseLarge(desc, bytes).catch(failed);
  try {
    return fromBinary(desc, bytes);
  } catch (error) {
    return failed(error);
  }
}

function unreadable({ typeName }: DescMessage, error: unknown): ServiceError {
  const why = error instanceof Error ? error.message : String(error);
  return invalidField('body', `is not a valid ${typeName} in Protobuf: ${why}`);
}

async function parseLarge(desc: DescMessage, bytes: Uint8Array): Promise<Message> {
  const slices = new Slices();
  const scan = new ProtobufScan(desc, bytes, limits.parsedBytes);
  while (!scan.step()) if (slices.isOver()) await slices.rest();
  const { excess: over, longText, weightBytes: weight, maxFieldsInUnit: mostInUnit, fields } = scan;
  if (over !== undefined) throw tooManyElements(over.field, over.limit, over.actual);
  if (longText !== undefined) throw invalidField(longText.field, textTooLong(longText.actual));
  if (weight > limits.parsedBytes)
    throw tooLarge('bytes of memory when parsed', { limit: limits.parsedBytes, actual: weight });
  if (mostInUnit > limits.messageFields)
    throw tooLarge('fields in one message', { limit: limits.messageFields, actual: mostInUnit });
  return fields <= fewFields ? fromBinary(desc, bytes) : await parseInSlices(desc, bytes, slices);
}

function tooLarge(what: string, size: { limit: number; actual: number }): ServiceError {
  const description = `must have at most ${size.limit} ${what}, not ${size.actual}; send fewer messages per call`;
  return batchTooLarge('body', description, size);
}

/** Parses the elements of the root's message lists one by one, and the rest at once. */
async function parseInSlices(desc: DescMessage, bytes: Uint8Array, slices: Slices): Promise<Message> {
  const lists = new Map<number, { field: DescField & { message: DescMessage }; elements: Message[] }>();
  for (const field of desc.fields)
    if (field.fieldKind === 'list' && field.listKind === 'message') lists.set(field.number, { field, elements: [] });
  const reader = new BinaryReader(bytes);
  const rest: Uint8Array[] = [];
  let restSince = 0;
  while (reader.pos < reader.len) {
    const start = reader.pos;
    const [number, wire] = reader.tag();
    const list = wire === WireType.LengthDelimited ? lists.get(number) : undefined;
    if (list === undefined) reader.skip(wire, number);
    else {
      if (start > restSince) rest.push(bytes.subarray(restSince, start));
      list.elements.push(fromBinary(list.field.message, reader.bytes()));
      restSince = reader.pos;
    }
    if (slices.isOver()) await slices.rest();
  }
  rest.push(bytes.subarray(restSince));
  const message = fromBinary(desc, Buffer.concat(rest));
  for (const { field, elements } of lists.values())
    if (elements.length > 0) (message as unknown as Record<string, unknown>)[field.localName] = elements;
  return message;
}
