import { create, fromJson, type JsonObject, type JsonValue } from '@bufbuild/protobuf';
import { pathToString } from '@bufbuild/protobuf/reflect';
import { createValidator } from '@bufbuild/protovalidate';
import { type MessageDraft, MessageDraftSchema, TemplateUseSchema } from '../../gen/sendbatch/v1/message_pb.ts';
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

const numbers: ReadonlySet<string> = new Set(['channel_type', 'expire', 'red_dot', 'no_persist', 'sync_once']);
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
        .map((each) => `${pathToString(each.field) || each.ruleId.split('.', 1)[0]} ${each.message}`)
        .join('; ');
    } catch (error) {
      if (error instanceof CommandError) throw error;
      return error instanceof Error ? error.message : String(error);
    }
  };
}

function ofLine(text: string, defaults: JsonObject): MessageDraft {
  const value = JSON.parse(text) as JsonValue;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return fromJson(MessageDraftSchema, value);
  const own = Object.fromEntries(Object.entries(value).filter(([name]) => value[name] !== null));
  const missing = Object.entries(defaults).filter(([name]) => !(name in own) && !(camel(name) in own));
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
    if (flags.has(name)) header[name] = numberOf(name, text);
    else json[name] = numbers.has(name) ? numberOf(name, text) : text;
  }
  if (Object.keys(header).length > 0) json.header = header;
  return json;
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
}
