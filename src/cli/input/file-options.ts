import { createHash } from 'node:crypto';
import { existsSync, statSync } from 'node:fs';
import { Code, ConnectError } from '@connectrpc/connect';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { TemplateFormat } from '../../../gen/sendbatch/v1/template_service_pb.ts';
import type { RequestTemplate } from '../../client/index.ts';
import { channelType } from '../channel-type.ts';
import type { Connection, ConnectOptions } from '../connect.ts';
import { CommandError, pair, templateName, wholeNumber } from '../usage.ts';
import { type Columns, resolveColumns } from './columns.ts';
import { bodyIn, encoding, usualEncoding } from './decode.ts';
import { fields, type Mapping } from './drafts.ts';
import { fileTroubles } from './fs-error-messages.ts';
import { type Entry, openSource, type Shape, type Source, shapeOf } from './source.ts';

/** How a file of messages is read. */
export interface ReadingOptions extends ConnectOptions {
  readonly input?: Shape;
  readonly delimiter?: string;
  readonly encoding?: string;
  readonly template?: { readonly name: string; readonly version: number };
  readonly templateFile?: string;
  readonly format: 'json' | 'text';
  readonly fromUid?: string;
  readonly channelType?: number;
  readonly channelId?: string;
  readonly expire?: number;
  readonly tagKey?: string;
  readonly redDot?: boolean;
  readonly channelIdColumn?: string;
  readonly column?: Record<string, string>;
  readonly payloadBase64?: boolean;
  readonly ignoreColumn?: string[];
  readonly unique?: string;
}

/** What the options come to. */
export interface Reading {
  readonly shape: Shape;
  /** Undefined: by the header line. */
  readonly delimiter: string | undefined;
  readonly encoding: string;
  readonly mapping: Mapping;
  readonly templates: readonly RequestTemplate[];
  /** The column or field of which a value counts once. */
  readonly unique: string | undefined;
}

export const aboutFiles = `
Files, by their names:
  *.ndjson, *.jsonl   a message a line, with the fields of the JSON routes ("payload" is base64); or the report of what an
                      earlier run refused
  *.csv, *.tsv        a message a row, under a header line. Columns with these names fill the message's fields:
                      ${fields.join(', ').replace(/^(.{60,80},) /, '$1\n                      ')};
                      "payload" (text) is its content, unless a template makes it: then every column is a variable
                      of it. An option such as --from-uid is for all rows, and a column of that field is read only where
                      --column names it (the option then fills its empty cells). A line of NDJSON that says something
                      else than an option is refused. send_at is for batch submit.
  *.gz                any of these, packed
  -                   standard input (NDJSON, or --input csv)
Text is UTF-8; what is not ends the file at its line, unless --encoding says what it is. Columns are separated as the header
line shows, or by --delimiter. A row that cannot be read is refused by itself; a quote that is never closed, or closed within
a cell, ends the file at its line.`;

/** The file of messages that a command takes, and how to read it. */
export function readingFile(command: Command): Command {
  return command
    .argument('<file>', 'NDJSON, CSV or TSV, also .gz; - is standard input')
    .addOption(
      new Option('--input <format>', 'what the file holds, when its name does not say').choices(['ndjson', 'csv']),
    )
    .option('--delimiter <character>', 'between columns of CSV (default: as the header line shows)', oneCharacter)
    .option(
      '--encoding <name>',
      'what the file is in, such as windows-1252, gb18030, utf-16le (default utf-8)',
      encoding,
    )
    .option('--template <name[@version]>', 'a stored template makes the payload of a row', templateName)
    .option('--template-file <file>', 'a template of this run alone makes it')
    .addOption(new Option('--format <format>', 'what --template-file makes').choices(['text', 'json']).default('text'))
    .option('--from-uid <uid>', 'the sender of all')
    .option('--channel-type <type>', 'the type of all channels: 1 to 12, or a name', channelType)
    .option('--channel-id <id>', 'the channel of all')
    .option('--expire <seconds>', 'how long all messages live', wholeNumber(0, 2 ** 32 - 1))
    .option('--tag-key <word>', 'the tag of all')
    .option('--red-dot', 'all count as unread')
    .option('--channel-id-column <name>', 'the column that is the channel’s id (default channel_id)')
    .option('--column <field=name>', 'the column that is any field, or payload; may be given more than once', column)
    .option(
      '--ignore-column <name>',
      'a column that looks like a field and is none; may be given more than once',
      collect,
    )
    .option('--payload-base64', 'the payload column is base64')
    .option('--unique <column>', 'rows after the first with the same value there are dropped, and counted');
}

export async function readingOf(
  file: string,
  options: ReadingOptions,
  { connection, takesSendAt }: { readonly connection: Connection; readonly takesSendAt: boolean },
): Promise<Reading> {
  if (file !== '-' && !existsSync(file)) throw new CommandError(`${file} ${fileTroubles.ENOENT}`);
  if (file !== '-' && statSync(file).isDirectory()) throw new CommandError(`${file} ${fileTroubles.EISDIR}`);
  const shape = options.input ?? shapeOf(file);
  if (options.template !== undefined && options.templateFile !== undefined)
    throw new CommandError('--template and --template-file exclude each other');
  const templated = options.template !== undefined || options.templateFile !== undefined;
  if (shape === 'ndjson') {
    if (templated) throw new CommandError('--template… are for CSV: a line of NDJSON names its template itself');
    if ([options.column, options.channelIdColumn, options.ignoreColumn].some((each) => each !== undefined))
      throw new CommandError('--column… are for CSV: a line of NDJSON names its fields itself');
  }
  if (templated && options.payloadBase64) throw new CommandError('--payload-base64 is for files without a template');
  const templates = options.templateFile === undefined ? [] : [templateIn(options.templateFile, options.format)];
  const template =
    options.template === undefined
      ? templates.map(({ name }) => ({ name, version: 0 }))[0]
      : await pinned(options.template, connection);
  return {
    shape,
    delimiter: options.delimiter,
    encoding: options.encoding ?? usualEncoding,
    mapping: { ...mappingOf(options), template, takesSendAt },
    templates,
    unique: options.unique,
  };
}

function mappingOf(options: ReadingOptions): Omit<Mapping, 'template' | 'takesSendAt'> {
  const defaults = {
    from_uid: options.fromUid,
    channel_type: options.channelType,
    channel_id: options.channelId,
    expire: options.expire,
    tag_key: options.tagKey,
    red_dot: options.redDot ? 1 : undefined,
  };
  const given = Object.entries(defaults).filter(([, value]) => value !== undefined);
  return {
    defaults: Object.fromEntries(given.map(([name, value]) => [name, String(value)])),
    columns: {
      ...options.column,
      ...(options.channelIdColumn === undefined ? {} : { channel_id: options.channelIdColumn }),
    },
    ignored: options.ignoreColumn ?? [],
    payloadBase64: options.payloadBase64 === true,
  };
}

/** A file as it is read, with the columns of its header line. */
export interface Opened {
  readonly source: Source;
  /** Of CSV, once the first entry has come. */
  columns(): Columns;
  /** Whether an entry repeats the value of --unique. */
  repeats(entry: Entry): boolean;
}

/** Opens the file of a command. */
export function openReading(
  file: string,
  { shape, delimiter, encoding, mapping, unique }: Reading,
  { onNote, onBytes }: { readonly onNote: (text: string) => void; readonly onBytes?: (chunk: Buffer) => void },
): Opened {
  let columns: Columns = {};
  const seen = new Set<string>();
  const names = [...fields, 'payload', ...Object.values(mapping.columns), ...(unique === undefined ? [] : [unique])];
  const source = openSource(file, {
    shape,
    delimiter,
    encoding,
    names: names.map((each) => each.toLowerCase()),
    onNote,
    onHeader(header) {
      const resolved = resolveColumns(header, mapping);
      columns = resolved.columns;
      if (unique !== undefined && !header.includes(unique))
        throw new CommandError(
          `there is no column ${JSON.stringify(unique)} for --unique; the header line has: ${header.join(', ')}`,
        );
      for (const each of resolved.notes) onNote(each);
    },
    ...(onBytes === undefined ? {} : { onBytes }),
  });
  return {
    source,
    columns: () => columns,
    repeats(entry) {
      const value = unique === undefined ? undefined : valueIn(entry, unique);
      if (value === undefined) return false;
      const before = seen.size;
      return seen.add(value).size === before;
    },
  };
}

/** What a row or line has under a name; undefined: nothing, which repeats nothing. */
function valueIn({ content }: Entry, name: string): string | undefined {
  if ('row' in content) return content.row[name] || undefined;
  if (!('json' in content)) return undefined;
  try {
    const value = (JSON.parse(content.json) as Record<string, unknown>)[name];
    return value === undefined || value === null ? undefined : JSON.stringify(value);
  } catch {
    return undefined;
  }
}

/** The version that is the latest now, so that a run that goes on tomorrow renders the same; who may not look at templates takes the latest each time. */
async function pinned(
  wanted: { readonly name: string; readonly version: number },
  { templates }: Connection,
): Promise<{ name: string; version: number }> {
  try {
    const { template } = await templates.getTemplate(wanted);
    return { name: wanted.name, version: template?.version ?? wanted.version };
  } catch (error) {
    if (ConnectError.from(error).code !== Code.PermissionDenied) throw error;
    return wanted;
  }
}

function templateIn(file: string, format: 'json' | 'text') {
  const body = bodyIn(file);
  return {
    // By what it holds: reports of several runs, each with its template, can be sent as one file.
    name: `file-${createHash('sha256').update(`${format} ${body}`).digest('hex').slice(0, 16)}`,
    body,
    format: format === 'json' ? TemplateFormat.JSON : TemplateFormat.TEXT,
  };
}

function collect(text: string, before: readonly string[] = []): string[] {
  return [...before, text];
}

function oneCharacter(text: string): string {
  const character = text === '\\t' || text === 'tab' ? '\t' : text;
  if (character.length !== 1 || /["\r\n]/.test(character)) throw new InvalidArgumentError('It takes one character.');
  return character;
}

function column(text: string, before?: Record<string, string>): Record<string, string> {
  const columns = pair(text, before);
  const odd = Object.keys(columns).find(
    (field) => field !== 'payload' && !(fields as readonly string[]).includes(field),
  );
  if (odd !== undefined) throw new InvalidArgumentError(`The fields are payload, ${fields.join(', ')}.`);
  return columns;
}
