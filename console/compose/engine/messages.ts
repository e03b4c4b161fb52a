import { base64Encode } from '@bufbuild/protobuf/wire';
import type { ChannelType, MessageDraft } from '../../../gen/client/sendbatch/v1/message_pb.ts';
import { createDraftReader } from '../../../src/message-files/draft-reader.ts';
import { parseExactly } from '../../../src/message-files/exact-json.ts';
import { type CompiledTemplate, compileTemplate } from '../../../src/templates/template.ts';
import type { Variables } from '../../../src/templates/variables.ts';
import { type Problem, problemOf } from '../files/problem.ts';
import type { Table } from '../files/table.ts';
import { type Content, mappingOf, ownTemplate, type Plan } from './plan.ts';

/** A message as its receiver gets it, rendered by the same code as in the service. */
export interface Rendered {
  readonly payload: Uint8Array;
}

/** Makes messages of rows. */
export interface MessageMaker {
  /** What is wrong with the template; undefined: nothing. */
  readonly templateFault: string | undefined;
  /** The variables that the template uses. */
  readonly variables: readonly string[];
  /** The message of a row, or why it has none. */
  draft(row: number): MessageDraft | Problem;
  /** The payload of a message; undefined if the template's text is not known. */
  render(draft: MessageDraft): Rendered | Problem | undefined;
}

export function isProblem(value: MessageDraft | Rendered | Problem): value is Problem {
  return 'code' in value;
}

/** Limit of the service for one payload. */
export const maxPayloadBytes = 64 * 1024;

export function createMessageMaker(table: Table, plan: Plan): MessageMaker {
  const mapping = mappingOf(plan, ownTemplate);
  const read = createDraftReader(mapping);
  const { compiled, fault } = compiledOf(plan);
  const variables = compiled?.variables() ?? [];
  // Other columns would only lengthen the upload: a batch of 100,000 rows has 2.6 kB per row.
  const used = compiled === undefined || hasComputedNames(plan) ? undefined : new Set(variables);
  const ofRow = (row: number) => {
    const draft = read({ row: rowAsObject(table, row) }, mapping.columns);
    if (typeof draft !== 'string' && draft.template !== undefined && used !== undefined)
      draft.template.variables = rowAsObject(table, row, used);
    return draft;
  };
  const ofLine = (row: number, content: Content & { kind: 'lines' }) => {
    const draft = read({ json: withBytes(table.texts?.[row] ?? '', content.isBase64) }, {});
    return typeof draft === 'string' ? draft : withDefaults(draft, plan);
  };
  return {
    templateFault: fault,
    variables,
    draft(row) {
      if (fault !== undefined) return { code: 'template', values: { text: fault } };
      const draft = plan.content.kind === 'lines' ? ofLine(row, plan.content) : ofRow(row);
      if (typeof draft === 'string') return problemOf(draft);
      const missing = missingField(draft);
      return missing === undefined ? draft : { code: 'required', values: { field: missing } };
    },
    render({ payload, template }) {
      if (template === undefined) return payload.length > maxPayloadBytes ? tooLarge(payload.length) : { payload };
      if (compiled === undefined) return undefined;
      const result = renderPatiently(compiled, (template.variables ?? {}) as Variables);
      if ('payload' in result) return { payload: result.payload };
      const { reason, message, metadata = {} } = result.refusal;
      if (reason === 'PAYLOAD_TOO_LARGE') return tooLarge(Number(metadata.actual ?? 0));
      const names = metadata.missing ?? '';
      return names === ''
        ? { code: 'template', values: { text: message } }
        : { code: 'missing', values: { names: names.replaceAll(',', ', ') } };
    },
  };
}

/**
 * Attempts at a message: liquidjs measures elapsed time, and a busy machine suspends the worker.
 */
const renderAttempts = 5;

function renderPatiently(compiled: CompiledTemplate, variables: Variables): ReturnType<CompiledTemplate['render']> {
  for (let attempt = 1; ; attempt++) {
    const result = compiled.render(variables);
    if (!('timeout' in result) || attempt === renderAttempts) return result;
  }
}

function tooLarge(bytes: number): Problem {
  return { code: 'tooLarge', values: { bytes, limit: maxPayloadBytes } };
}

function compiledOf({ content }: Plan): { readonly compiled?: CompiledTemplate; readonly fault?: string | undefined } {
  const template = content.kind === 'text' || content.kind === 'stored' ? content.template : undefined;
  if (template === undefined) return {};
  const compiled = compileTemplate({ name: ownTemplate, ...template });
  return 'fault' in compiled ? { fault: compiled.fault } : { compiled };
}

/** Whether a template computes names of variables, as in `{{ [column] }}`. */
function hasComputedNames({ content }: Plan): boolean {
  const template = content.kind === 'text' || content.kind === 'stored' ? content.template : undefined;
  return /\[\s*[^"'\s\]]/.test(template?.body ?? '');
}

/** A line whose payload is base64, as the contract has it: people write text or an object too. */
function withBytes(text: string, isBase64: boolean): string {
  if (isBase64 && /"payload"\s*:\s*"/.test(text)) return text;
  try {
    const value = parseExactly(text);
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return text;
    const { payload = null } = value;
    if (payload === null || (typeof payload === 'string' && isBase64)) return text;
    const plain = typeof payload === 'string' ? payload : JSON.stringify(payload);
    return JSON.stringify({ ...value, payload: base64Encode(new TextEncoder().encode(plain)) });
  } catch {
    // The reader reports what is wrong.
    return text;
  }
}

/** Fills the sender and the kind of channel of a message that has none. */
function withDefaults(draft: MessageDraft, { defaults }: Plan): MessageDraft {
  const hasChannel = draft.channelId !== '';
  return {
    ...draft,
    fromUid: draft.fromUid || (defaults.from_uid ?? ''),
    channelType:
      draft.channelType || !hasChannel ? draft.channelType : (Number(defaults.channel_type ?? 0) as ChannelType),
  };
}

/** The first field without which every message is refused. */
function missingField(draft: MessageDraft): string | undefined {
  const { fromUid, channelId, channelType, payload, template } = draft;
  const isCommand = draft.header?.syncOnce === 1 && draft.subscribers.length > 0;
  if (channelId === '' && !isCommand) return 'channel_id';
  if (channelType === 0 && channelId !== '') return 'channel_type';
  if (fromUid === '') return 'from_uid';
  return payload.length === 0 && template === undefined ? 'payload' : undefined;
}

/**
 * The cells of a row by column, or only those of `names`. No prototype: a column may be named
 * __proto__.
 */
export function rowAsObject(
  { columns, rows }: Table,
  row: number,
  names?: ReadonlySet<string>,
): Record<string, string> {
  const cells: Record<string, string> = Object.create(null);
  for (const [index, name] of columns.entries())
    if (names === undefined || names.has(name)) cells[name] = rows[row]?.[index] ?? '';
  return cells;
}
