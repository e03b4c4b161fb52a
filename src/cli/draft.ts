import { create, fromJson, type JsonObject, type JsonValue } from '@bufbuild/protobuf';
import { pathToString } from '@bufbuild/protobuf/reflect';
import { createValidator, type Violation } from '@bufbuild/protovalidate';
import {
  ChannelTypeSchema,
  type MessageDraft,
  MessageDraftSchema,
  TemplateUseSchema,
} from '../../gen/sendbatch/v1/message_pb.ts';
import { ruleWords } from '../domain/rule-words.ts';
import { channelType, channelTypes } from './channel-type.ts';
import type { Entry } from './source.ts';
import { CommandError } from './usage.ts';

/** The fields of a message that a column can fill, and an option for the rows that have none. */
export const fields = [
  'from_uid',
  'channel_id',
  'channel_type',
  'client_msg_no',
  'expire',
  'tag_key',
  'stream_no',
  'red_dot',
  'no_persist',
  'sync_once',
] as const;
type Field = (typeof fields)[number];

/** How entries become messages. */
export interface Mapping {
  /** For entries that do not say it themselves. */
  readonly defaults: Readonly<Partial<Record<Field, string>>>;
  /** Columns that fill fields under another name than the field's. */
  readonly columns: Readonly<Partial<Record<Field | 'payload', string>>>;
  /** What makes the payload of a row: with it all columns are variables. */
  readonly template: { readonly name: string; readonly version: number } | undefined;
  readonly payloadBase64: boolean;
}

const numbers: ReadonlySet<string> = new Set(['expire', 'red_dot', 'no_persist', 'sync_once']);
const flags: ReadonlySet<string> = new Set(['red_dot', 'no_persist', 'sync_once']);

const validator = createValidator();

/** Makes messages of entries; a text is what is wrong with one. A message that breaks a rule would make its whole call malformed. */
export function createDrafts(mapping: Mapping): (entry: Entry) => MessageDraft | string {
  const defaults = toJson(mapping.defaults);
  return ({ content }) => {
    if ('fault' in content) return content.fault;
    try {
      const draft = 'row' in content ? ofRow(content.row, mapping, defaults) : ofLine(content.json, defaults);
      const result = validator.validate(MessageDraftSchema, draft);
      if (result.kind === 'valid') return draft;
      if (result.kind === 'error') return result.error.message;
      return result.violations
        .map((each) => `${pathToString(each.field) || each.ruleId.split('.', 1)[0]} ${words(each)}`)
        .join('; ');
    } catch (error) {
      if (error instanceof CommandError) throw error;
      return plainly(error instanceof Error ? error.message : String(error));
    }
  };
}

function words({ ruleId, message, field }: Violation): string {
  const values = field.some((step) => step.kind === 'field' && step.enum?.typeName === ChannelTypeSchema.typeName)
    ? channelTypes
    : [];
  return ruleWords({ id: ruleId, said: message, values });
}

/** What is wrong with a line, without the names that the contract has for it. */
function plainly(message: string): string {
  const shape =
    /^cannot decode message [\w.]+ from JSON: (?:Array\(\d+\)|object|string|number|boolean|null|true|false|-?\d.*|".*")$/s;
  if (shape.test(message)) return 'a line must be an object in JSON, a message';
  return message
    .replace(/^cannot decode message sendbatch\.v1\.\w+ from JSON: /, '')
    .replace(/^cannot decode field sendbatch\.v1\.\w+\.(\w+) from JSON: /, '$1: ');
}

function ofLine(text: string, defaults: JsonObject): MessageDraft {
  const value = JSON.parse(text) as JsonValue;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return fromJson(MessageDraftSchema, value);
  const own = Object.fromEntries(Object.entries(value).filter(([name]) => value[name] !== null));
  const missing = Object.entries(defaults).filter(([name]) => !(name in own) && !(camel(name) in own));
  for (const name of ['channel_type', 'channelType'])
    if (typeof own[name] === 'string') own[name] = channelTypeOf(own[name]);
  return fromJson(MessageDraftSchema, { ...own, ...Object.fromEntries(missing) });
}

function ofRow(row: Readonly<Record<string, string>>, mapping: Mapping, defaults: JsonObject): MessageDraft {
  const taken: Partial<Record<Field, string>> = {};
  for (const field of fields) {
    const cell = row[mapping.columns[field] ?? field];
    if (cell !== undefined && cell !== '') taken[field] = cell;
  }
  const own = toJson(taken);
  const header = { ...(defaults.header as JsonObject | undefined), ...(own.header as JsonObject | undefined) };
  const draft = fromJson(MessageDraftSchema, { ...defaults, ...own, header });
  if (mapping.template !== undefined) {
    draft.template = create(TemplateUseSchema, { ...mapping.template, variables: { ...row } });
    return draft;
  }
  const payload = row[mapping.columns.payload ?? 'payload'] ?? '';
  draft.payload = mapping.payloadBase64 ? ofBase64(payload) : new TextEncoder().encode(payload);
  return draft;
}

/** Text as the contract's JSON has the fields: numbers as numbers, flags in the header. */
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

/** 1 to 12, or a name, as the commands take it; also a whole one of the contract's. */
function channelTypeOf(text: string): number {
  try {
    return channelType(text.trim().replace(/^CHANNEL_TYPE_/, ''));
  } catch (error) {
    const what = error instanceof Error ? error.message.replace(/^It takes /, '').replace(/\.$/, '') : '';
    throw new Error(`channel_type takes ${what}, not ${JSON.stringify(text)}`, { cause: error });
  }
}

function numberOf(name: string, text: string): number {
  if (!/^\s*\d{1,10}\s*$/.test(text)) throw new Error(`${name} takes a whole number, not ${JSON.stringify(text)}`);
  return Number(text);
}

function ofBase64(text: string): Uint8Array {
  const clean = text.trim();
  if (!/^[A-Za-z0-9+/_-]*={0,2}$/.test(clean)) throw new Error('payload is not base64');
  return Buffer.from(clean, 'base64');
}

function camel(name: string): string {
  return name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
}

/** Columns that the mapping needs and that a header does not have, said before anything is sent. */
export function assertColumns(row: Readonly<Record<string, string>>, mapping: Mapping): void {
  const wanted = Object.entries(mapping.columns).map(([field, column]) => ({ field, column }));
  const missing = wanted.find(({ column }) => !(column in row));
  const there = Object.keys(row).join(', ');
  if (missing !== undefined)
    throw new CommandError(
      `there is no column ${JSON.stringify(missing.column)} for ${missing.field}; the header line has: ${there}`,
    );
  if (mapping.template === undefined && !('payload' in row) && mapping.columns.payload === undefined)
    throw new CommandError(
      `without a template a column makes the payload: name one payload, or with --column payload=<name>, or give --template or --template-file; the header line has: ${there}`,
    );
  // Without these every row would be refused.
  for (const field of ['from_uid', 'channel_id', 'channel_type'] as const) {
    if ((mapping.columns[field] ?? field) in row || mapping.defaults[field] !== undefined) continue;
    throw new CommandError(
      `nothing says ${field}: name a column so, or with --column ${field}=<name>, or give --${field.replaceAll('_', '-')}; the header line has: ${there}`,
    );
  }
}
