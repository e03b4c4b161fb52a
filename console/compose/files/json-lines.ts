import type { JsonValue } from '@bufbuild/protobuf';
import { MessageDraftSchema } from '../../../gen/client/sendbatch/v1/message_pb.ts';
import { decodeLines } from '../../../src/message-files/decode.ts';
import { parseExactly } from '../../../src/message-files/exact-json.ts';
import { FileProblem, problemOf } from './problem.ts';
import { columnNames, type RowFault, type Table, TableBuilder } from './table.ts';
import { counted, faultOf, type TextOptions } from './text-table.ts';

/** Whether a text is lines of JSON objects. Throws a FileProblem for other JSON. */
export function isJsonLines(sample: string): boolean {
  const text = sample.trimStart();
  if (/^\[\s*[{\]]/.test(text)) throw new FileProblem('json');
  if (!text.startsWith('{')) return false;
  // An object over several lines is one document, not lines.
  if (/^\{\s*\r?\n/.test(text)) throw new FileProblem('json');
  return true;
}

/**
 * Reads lines of JSON objects as a table: a column per name. Texts stay as they are, numbers keep
 * all digits, objects and arrays become JSON.
 */
export async function readJsonLines(
  file: Blob,
  { encoding, onProgress }: Pick<TextOptions, 'encoding' | 'onProgress'>,
): Promise<Table> {
  const columns: string[] = [];
  const objects: JsonLine[] = [];
  const faults: RowFault[] = [];
  let line = 0;
  let isCut = false;
  let end: RowFault | undefined;
  const known = new Set<string>();
  try {
    for await (const piece of decodeLines(counted(file, onProgress), { encoding })) {
      const lines = piece.split('\n');
      if (lines.at(-1) === '') lines.pop();
      for (const text of lines) {
        line++;
        if (text.trim() === '') continue;
        if (objects.length + faults.length >= maxLines) {
          isCut = true;
          break;
        }
        try {
          const values = objectIn(text);
          for (const name of Object.keys(values))
            if (!known.has(name)) {
              known.add(name);
              columns.push(name);
            }
          objects.push({ line, text, values });
        } catch (error) {
          faults.push({ line, text, problem: problemOf(error instanceof Error ? error.message : String(error)) });
        }
      }
      if (isCut) break;
    }
  } catch (error) {
    end = faultOf(error);
  }
  if (columns.length === 0) {
    const first = end ?? faults[0];
    throw first === undefined
      ? new FileProblem('noRows')
      : new FileProblem(first.problem.code, { ...first.problem.values, line: first.line });
  }
  const builder = new TableBuilder(columnNames(columns), { keepsTexts: areMessages(columns) });
  for (const { line: at, text, values } of objects)
    builder.add(
      at,
      columns.map((name) => (Object.hasOwn(values, name) ? cellOf(values[name]) : '')),
      text,
    );
  for (const each of faults) builder.fault(each.line, each.text, each.problem);
  return builder.build({ end, isCut });
}

/** Lines that are read: one more than a batch can hold would be refused anyway. */
const maxLines = 100_000;

interface JsonLine {
  readonly line: number;
  readonly text: string;
  readonly values: Readonly<Record<string, JsonValue>>;
}

/** Names of a message's fields, in both spellings that JSON accepts. */
const messageNames: ReadonlySet<string> = new Set(
  MessageDraftSchema.fields.flatMap(({ name, jsonName }) => [name, jsonName]),
);
const contentNames = ['payload', 'template'];
/** Names in a report of refused messages by the command line. */
const reportNames = ['reason', 'message', 'draft'];

/** Whether lines with these names are messages, as the command `send` takes them. */
function areMessages(names: readonly string[]): boolean {
  if (reportNames.every((name) => names.includes(name))) return true;
  return contentNames.some((name) => names.includes(name)) && names.every((name) => messageNames.has(name));
}

function objectIn(text: string): Record<string, JsonValue> {
  const value = parseExactly(text);
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Error('a line must be a JSON object');
  return value;
}

function cellOf(value: JsonValue | undefined): string {
  if (value === undefined || value === null) return '';
  return typeof value === 'string' ? value : JSON.stringify(value);
}
