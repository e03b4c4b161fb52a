import { create, fromJson, type JsonObject } from '@bufbuild/protobuf';
import { base64Decode } from '@bufbuild/protobuf/wire';
import {
  HeaderSchema,
  type MessageDraft,
  MessageDraftSchema,
  TemplateUseSchema,
} from '../../gen/client/sendbatch/v1/message_pb.ts';
import { parseChannelType } from './channel-types.ts';
import { parseExactly } from './exact-json.ts';
import { type Columns, type Field, fields, type Mapping } from './mapping.ts';
import { assertTime } from './time.ts';

/** What a file holds for a message: the cells of a row by column, or the text of a line. */
export type EntryContent = { readonly row: Readonly<Record<string, string>> } | { readonly json: string };

const numbers: ReadonlySet<string> = new Set(['expire', 'red_dot', 'no_persist', 'sync_once']);
const flags: ReadonlySet<string> = new Set(['red_dot', 'no_persist', 'sync_once']);

/**
 * Converts entries to messages; a string says why an entry cannot be converted. The rules of the
 * contract are not checked.
 */
export function createDraftReader(
  mapping: Mapping,
): (content: EntryContent, columns: Columns) => MessageDraft | string {
  const defaults = toJson(mapping.defaults);
  return (content, columns) => {
    try {
      const draft =
        'row' in content ? ofRow(content.row, columns, { mapping, defaults }) : ofLine(content.json, mapping, defaults);
      if (draft.sendAt !== undefined && !mapping.takesSendAt)
        return 'send_at: send sends at once; batch submit accepts messages with a time';
      return draft;
    } catch (error) {
      return plainly(error instanceof Error ? error.message : String(error));
    }
  };
}

/** The error of a line, without the type names of the contract. */
function plainly(message: string): string {
  const shape =
    /^cannot decode message [\w.]+ from JSON: (?:Array\(\d+\)|object|string|number|boolean|null|true|false|-?\d.*|".*")$/s;
  if (shape.test(message)) return 'a line must be a JSON object';
  return message
    .replace(/^cannot decode message sendbatch\.v1\.\w+ from JSON: /, '')
    .replace(/^cannot decode field sendbatch\.v1\.\w+\.(\w+) from JSON: /, '$1: ');
}

function ofLine(text: string, mapping: Mapping, defaults: JsonObject): MessageDraft {
  const read = parseExactly(text);
  if (typeof read !== 'object' || read === null || Array.isArray(read)) return fromJson(MessageDraftSchema, read);
  const value = reportedDraft(read) ?? read;
  const own = Object.fromEntries(Object.entries(value).filter(([name]) => value[name] !== null));
  for (const name of ['channel_type', 'channelType'])
    if (typeof own[name] === 'string') own[name] = channelTypeOf(own[name]);
  for (const name of ['send_at', 'sendAt']) if (typeof own[name] === 'string') named('send_at', assertTime, own[name]);
  const draft = fromJson(MessageDraftSchema, own);
  return withDefaults(draft, own, { mapping, defaults });
}

/**
 * Fills fields that a line does not have. A line that contradicts an option is invalid: either
 * could be what was meant.
 */
function withDefaults(draft: MessageDraft, own: JsonObject, { mapping, defaults }: Filled): MessageDraft {
  const header = (own.header ?? {}) as JsonObject;
  for (const [field, wanted] of Object.entries(mapping.defaults)) {
    const place = flags.has(field) ? header : own;
    const said = place[field] ?? place[camel(field)];
    if (said === undefined) continue;
    const same =
      field === 'channel_type' ? channelTypeOf(String(said)) === channelTypeOf(wanted) : String(said) === wanted;
    if (!same)
      throw new Error(
        `${field} is ${JSON.stringify(said)}, but --${field.replaceAll('_', '-')} is ${JSON.stringify(wanted)}: remove one of them`,
      );
  }
  const filled = fromJson(MessageDraftSchema, defaults);
  const merged = { ...filled, ...draft };
  for (const field of Object.keys(mapping.defaults)) {
    const name = camel(field) as keyof MessageDraft;
    if (flags.has(field)) continue;
    if (!(field in own) && !(camel(field) in own)) Object.assign(merged, { [name]: filled[name] });
  }
  if (filled.header !== undefined || draft.header !== undefined)
    merged.header = fromJson(HeaderSchema, { ...((defaults.header ?? {}) as JsonObject), ...headerJson(header) });
  return merged;
}

/** The mapping, and its defaults as JSON. */
interface Filled {
  readonly mapping: Mapping;
  readonly defaults: JsonObject;
}

/** Converts the names of a header's flags to snake_case. */
function headerJson(header: JsonObject): JsonObject {
  return Object.fromEntries(
    Object.entries(header).map(([name, value]) => [
      name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      value,
    ]),
  );
}

/** The message in a line of a report of refused entries; undefined if it is another line. */
function reportedDraft(line: JsonObject): JsonObject | undefined {
  const { draft, reason, message, text } = line;
  if (typeof reason !== 'string' || typeof message !== 'string') return undefined;
  if (typeof draft === 'object' && draft !== null && !Array.isArray(draft)) return draft;
  if (typeof text !== 'string') return undefined;
  // The entry was invalid: `text` has it, and the operator may have corrected it.
  const again = text.trimStart().startsWith('{') ? parseExactly(text) : undefined;
  if (typeof again === 'object' && again !== null && !Array.isArray(again)) return again;
  throw new Error(`refused before as invalid: ${message}`);
}

function ofRow(row: Readonly<Record<string, string>>, columns: Columns, { mapping, defaults }: Filled): MessageDraft {
  const taken: Partial<Record<Field, string>> = {};
  for (const field of fields) {
    const column = columns[field];
    const cell = column === undefined ? undefined : row[column];
    if (cell !== undefined && cell !== '') taken[field] = cell;
  }
  if (taken.send_at !== undefined) named('send_at', assertTime, taken.send_at);
  const own = toJson(taken);
  const header = { ...(defaults.header as JsonObject | undefined), ...(own.header as JsonObject | undefined) };
  const draft = fromJson(MessageDraftSchema, { ...defaults, ...own, header });
  if (mapping.template !== undefined) {
    draft.template = create(TemplateUseSchema, { ...mapping.template, variables: { ...row } });
    return draft;
  }
  const payload = row[columns.payload ?? 'payload'] ?? '';
  draft.payload = mapping.payloadBase64 ? ofBase64(payload) : new TextEncoder().encode(payload);
  return draft;
}

function named(field: string, check: (text: string) => void, text: string): void {
  try {
    check(text);
  } catch (error) {
    throw new Error(`${field}: ${error instanceof Error ? error.message : error}`, { cause: error });
  }
}

/** Converts texts to the JSON of the contract: numbers as numbers, flags in the header. */
function toJson(values: Readonly<Partial<Record<Field, string>>>): JsonObject {
  const json: JsonObject = {};
  const header: JsonObject = {};
  for (const [name, text] of Object.entries(values)) {
    if (name === 'channel_type') json[name] = channelTypeOf(text);
    else if (flags.has(name)) header[name] = numberOf(name, text);
    else json[name] = numbers.has(name) ? numberOf(name, text) : text;
  }
  if (Object.keys(header).length > 0) json.header = header;
  return json;
}

/** Parses 1 to 12, a name as in commands, or a name of the contract (CHANNEL_TYPE_…). */
function channelTypeOf(text: string): number {
  try {
    return parseChannelType(text.trim().replace(/^CHANNEL_TYPE_/, ''));
  } catch (error) {
    const what = error instanceof Error ? error.message.replace(/^Expected /, '').replace(/\.$/, '') : '';
    throw new Error(`channel_type must be ${what}, not ${JSON.stringify(text)}`, { cause: error });
  }
}

function numberOf(name: string, text: string): number {
  if (!/^\s*\d{1,10}\s*$/.test(text)) throw new Error(`${name} must be a whole number, not ${JSON.stringify(text)}`);
  return Number(text);
}

function ofBase64(text: string): Uint8Array {
  const clean = text.trim();
  try {
    if (/^[A-Za-z0-9+/_-]*={0,2}$/.test(clean)) return base64Decode(clean);
  } catch {
    // Reported below.
  }
  throw new Error('payload is not base64');
}

function camel(name: string): string {
  return name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
}
