import { resembles, toBareName } from '../../message-files/field-names.ts';
import { type Columns, type Field, fields, type Mapping } from '../../message-files/mapping.ts';
import { CommandError } from '../usage.ts';

/** The header line, resolved. */
export interface Resolved {
  readonly columns: Columns;
  /** Notes for the operator: columns that are not read. */
  readonly notes: readonly string[];
}

/** Fields that no cell can hold, and what to do instead. */
const alternatives: Readonly<Record<string, string>> = {
  template: 'use --template, or NDJSON, whose lines name their template',
  variables: 'with --template every column is a variable; or use NDJSON',
  subscribers: 'a cell holds one value; use NDJSON',
  header: 'its flags are separate columns: red_dot, no_persist, sync_once',
};

/**
 * Decides which column fills which field, before anything is sent. An option is for all rows: a
 * column of the same name is read only if --column names it. A column that looks like a field but
 * is none is refused, because its values would be ignored: a file with `send_at`, say, would be
 * sent at once.
 */
export function resolveColumns(header: readonly string[], mapping: Mapping): Resolved {
  const there = header.map((name) => JSON.stringify(name)).join(', ');
  const taken = fieldsOf(mapping);
  const columns: Partial<Record<Field | 'payload', string>> = {};
  const notes: string[] = [];
  for (const field of taken) {
    const named = mapping.columns[field];
    if (named !== undefined && !header.includes(named))
      throw new CommandError(`no column ${JSON.stringify(named)} for ${field}; the header line has: ${there}`);
    if (named !== undefined) columns[field] = named;
    else if (!header.includes(field)) continue;
    else if (field === 'payload' || mapping.defaults[field] === undefined) columns[field] = field;
    else
      notes.push(
        `column ${field} is not read, because ${optionOf(field)} sets it for all rows (--column ${field}=${field} reads it)`,
      );
  }
  assertComplete(columns, mapping, there);
  const used = new Set<string>([...Object.values(columns), ...mapping.ignored]);
  for (const name of mapping.ignored)
    if (!header.includes(name))
      throw new CommandError(`no column ${JSON.stringify(name)} to ignore; the header line has: ${there}`);
  const left = header.filter((name) => !used.has(name) && !taken.includes(name as Field));
  for (const name of left) assertNoField(name, columns, mapping);
  if (mapping.template === undefined && left.length > 0)
    notes.push(`columns without a field, not sent: ${left.join(', ')}`);
  return { columns, notes };
}

function fieldsOf({ template, takesSendAt }: Mapping): (Field | 'payload')[] {
  const own = fields.filter((each) => each !== 'send_at' || takesSendAt);
  return template === undefined ? [...own, 'payload'] : own;
}

/** Throws if a required field has no column, because every row would be refused. */
function assertComplete(columns: Columns, mapping: Mapping, there: string): void {
  if (mapping.template === undefined && columns.payload === undefined)
    throw new CommandError(
      `no column for the payload: name a column payload, or use --column payload=<name>, --template or --template-file; the header line has: ${there.replaceAll('"', '')}`,
    );
  for (const field of ['from_uid', 'channel_id', 'channel_type'] as const) {
    if (columns[field] !== undefined || mapping.defaults[field] !== undefined) continue;
    throw new CommandError(
      `no value for ${field}: name a column ${field}, or use --column ${field}=<name> or ${optionOf(field)}; the header line has: ${there.replaceAll('"', '')}`,
    );
  }
}

function assertNoField(name: string, columns: Columns, mapping: Mapping): void {
  const plainName = toBareName(name);
  const ignore = `--ignore-column ${quoted(name)} if it is not a field`;
  const odd = Object.keys(alternatives).find((each) => toBareName(each) === plainName);
  if (odd !== undefined)
    throw new CommandError(`column ${JSON.stringify(name)} would be ignored: ${alternatives[odd]}; ${ignore}`);
  if (plainName === 'sendat' && !mapping.takesSendAt)
    throw new CommandError(
      `column ${JSON.stringify(name)} would be ignored: send sends at once; batch submit accepts it; ${ignore}`,
    );
  const near = fieldsOf(mapping).find((field) => columns[field] === undefined && resembles(name, field));
  if (near === undefined) return;
  if (near !== 'payload' && mapping.defaults[near] !== undefined) return;
  throw new CommandError(
    `column ${JSON.stringify(name)} looks like ${near} and would be ignored: rename it to ${near}, or use --column ${near}=${quoted(name)}; ${ignore}`,
  );
}

function optionOf(field: string): string {
  return field === 'send_at' ? '--send-at' : `--${field.replaceAll('_', '-')}`;
}

function quoted(name: string): string {
  return /^[\w.-]+$/.test(name) ? name : `'${name}'`;
}
