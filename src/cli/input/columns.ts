import leven from 'leven';
import { CommandError } from '../usage.ts';
import { type Field, fields, type Mapping } from './drafts.ts';

/** What fills what: the column of each field that has one. */
export type Columns = Readonly<Partial<Record<Field | 'payload', string>>>;

/** What the columns of a header line come to. */
export interface Resolved {
  readonly columns: Columns;
  /** What a person should know: columns that are not read. */
  readonly notes: readonly string[];
}

/** Fields of a message that no cell can hold, and what to do instead. */
const wayOut: Readonly<Record<string, string>> = {
  template: 'give --template, or NDJSON, whose lines name templates themselves',
  variables: 'with --template every column is a variable; or give NDJSON',
  subscribers: 'a cell holds one value: give NDJSON',
  header: 'its flags are columns of their own: red_dot, no_persist, sync_once',
};

/**
 * Decides which column fills which field, before anything is sent. An option of the operator's is for all rows: a column of the same name counts only where --column
 * names it. A name that looks like a field and is none is refused, for what it holds would be ignored: a file with `send_at` was sent at once.
 */
export function resolveColumns(header: readonly string[], mapping: Mapping): Resolved {
  const there = header.map((name) => JSON.stringify(name)).join(', ');
  const taken = fieldsOf(mapping);
  const columns: Partial<Record<Field | 'payload', string>> = {};
  const notes: string[] = [];
  for (const field of taken) {
    const named = mapping.columns[field];
    if (named !== undefined && !header.includes(named))
      throw new CommandError(`there is no column ${JSON.stringify(named)} for ${field}; the header line has: ${there}`);
    if (named !== undefined) columns[field] = named;
    else if (!header.includes(field)) continue;
    else if (field === 'payload' || mapping.defaults[field] === undefined) columns[field] = field;
    else
      notes.push(
        `the column ${field} is not read: ${optionOf(field)} says it for all (--column ${field}=${field} reads it)`,
      );
  }
  assertEnough(columns, mapping, there);
  const used = new Set<string>([...Object.values(columns), ...mapping.ignored]);
  for (const name of mapping.ignored)
    if (!header.includes(name))
      throw new CommandError(`there is no column ${JSON.stringify(name)} to ignore; the header line has: ${there}`);
  const left = header.filter((name) => !used.has(name) && !taken.includes(name as Field));
  for (const name of left) assertNoField(name, columns, mapping);
  if (mapping.template === undefined && left.length > 0)
    notes.push(`columns that fill no field, and are not sent: ${left.join(', ')}`);
  return { columns, notes };
}

function fieldsOf({ template, takesSendAt }: Mapping): (Field | 'payload')[] {
  const own = fields.filter((each) => each !== 'send_at' || takesSendAt);
  return template === undefined ? [...own, 'payload'] : own;
}

/** Refuses what would make every row a refused one. */
function assertEnough(columns: Columns, mapping: Mapping, there: string): void {
  if (mapping.template === undefined && columns.payload === undefined)
    throw new CommandError(
      `without a template a column makes the payload: name one payload, or with --column payload=<name>, or give --template or --template-file; the header line has: ${there.replaceAll('"', '')}`,
    );
  for (const field of ['from_uid', 'channel_id', 'channel_type'] as const) {
    if (columns[field] !== undefined || mapping.defaults[field] !== undefined) continue;
    throw new CommandError(
      `nothing says ${field}: name a column so, or with --column ${field}=<name>, or give ${optionOf(field)}; the header line has: ${there.replaceAll('"', '')}`,
    );
  }
}

function assertNoField(name: string, columns: Columns, mapping: Mapping): void {
  const plainName = bare(name);
  const ignore = `--ignore-column ${quoted(name)} if it is no field`;
  const odd = Object.keys(wayOut).find((each) => bare(each) === plainName);
  if (odd !== undefined)
    throw new CommandError(`the column ${JSON.stringify(name)} would be ignored: ${wayOut[odd]}; ${ignore}`);
  if (plainName === 'sendat' && !mapping.takesSendAt)
    throw new CommandError(
      `the column ${JSON.stringify(name)} would be ignored: send sends now; batch submit takes it; ${ignore}`,
    );
  const near = fieldsOf(mapping).find((field) => columns[field] === undefined && looksLike(plainName, bare(field)));
  if (near === undefined) return;
  if (near !== 'payload' && mapping.defaults[near] !== undefined) return;
  throw new CommandError(
    `the column ${JSON.stringify(name)} looks like ${near}, and would be ignored: name it ${near}, or give --column ${near}=${quoted(name)}; ${ignore}`,
  );
}

function looksLike(name: string, field: string): boolean {
  if (name === field) return true;
  // Short names are near to too many words.
  const most = field.length >= 7 ? 2 : 1;
  return leven(name, field, { maxDistance: most + 1 }) <= most;
}

/** A name without what people write in different ways: `Channel ID`, `channelId`, `channel-id`. */
function bare(name: string): string {
  return name.toLowerCase().replace(/[^\p{L}\p{N}]/gu, '');
}

function optionOf(field: string): string {
  return field === 'send_at' ? '--send-at' : `--${field.replaceAll('_', '-')}`;
}

function quoted(name: string): string {
  return /^[\w.-]+$/.test(name) ? name : `'${name}'`;
}
