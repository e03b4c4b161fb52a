import type { MessageDraft } from '../../../gen/client/sendbatch/v1/message_pb.ts';
import { createDraftReader } from '../../../src/message-files/draft-reader.ts';
import { type CompiledTemplate, compileTemplate } from '../../../src/templates/template.ts';
import type { Variables } from '../../../src/templates/variables.ts';
import { type Problem, problemOf } from '../files/problem.ts';
import type { Table } from '../files/table.ts';
import { mappingOf, ownTemplate, type Plan } from './plan.ts';

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
  return {
    templateFault: fault,
    variables: compiled?.variables() ?? [],
    draft(row) {
      const content = { row: rowAsObject(table, row) };
      const draft = read(content, mapping.columns);
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
  const template = content.kind === 'column' ? undefined : content.template;
  if (template === undefined) return {};
  const compiled = compileTemplate({ name: ownTemplate, ...template });
  return 'fault' in compiled ? { fault: compiled.fault } : { compiled };
}

/** The first field without which every message is refused. */
function missingField({ fromUid, channelId, channelType, payload, template }: MessageDraft): string | undefined {
  if (channelId === '') return 'channel_id';
  if (channelType === 0) return 'channel_type';
  if (fromUid === '') return 'from_uid';
  return payload.length === 0 && template === undefined ? 'payload' : undefined;
}

/** The cells of a row by column. No prototype: a column may be named __proto__. */
export function rowAsObject({ columns, rows }: Table, row: number): Record<string, string> {
  const cells: Record<string, string> = Object.create(null);
  for (const [index, name] of columns.entries()) cells[name] = rows[row]?.[index] ?? '';
  return cells;
}
