import { createHash } from 'node:crypto';
import { existsSync, statSync } from 'node:fs';
import { Code, ConnectError } from '@connectrpc/connect';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { TemplateFormat } from '../../../gen/sendbatch/v1/template_service_pb.ts';
import type { RequestTemplate } from '../../client/index.ts';
import { defaultEncoding } from '../../message-files/decode.ts';
import { type Columns, fields, type Mapping } from '../../message-files/mapping.ts';
import { channelType } from '../channel-type.ts';
import type { Connection, ConnectOptions } from '../connect.ts';
import { CommandError, pair, templateName, wholeNumber } from '../usage.ts';
import { resolveColumns } from './columns.ts';
import { bodyIn, encoding } from './decode.ts';
import { fsErrorMessages } from './fs-error-messages.ts';
import { type Entry, openSource, type Shape, type Source, shapeOf } from './source.ts';

/** Options of commands that read a file of messages. */
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

/** The checked options. */
export interface Reading {
  readonly shape: Shape;
  /** Undefined: detected in the header line. */
  readonly delimiter: string | undefined;
  readonly encoding: string;
  readonly mapping: Mapping;
  readonly templates: readonly RequestTemplate[];
  /** The column or field whose values must be unique. */
  readonly unique: string | undefined;
}

export const aboutFiles = `
File formats, by name:
  *.ndjson, *.jsonl   one message per line, with the fields of the JSON routes ("payload" is base64); or the report of
                      refused entries of an earlier run
  *.csv, *.tsv        one message per row, after a header line. Columns with these names fill the fields of the message:
                      ${fields.join(', ').replace(/^(.{60,80},) /, '$1\n                      ')};
                      "payload" (text) is the payload. With a template, every column is a variable of it instead.
                      An option such as --from-uid applies to all rows; a column of that field is then read only if
                      --column names it, and the option fills its empty cells. A line of NDJSON that contradicts an
                      option is refused. send_at is for batch submit.
  *.gz                any of these, compressed
  -                   standard input (NDJSON, or --input csv)
Text is UTF-8, or in the encoding given by --encoding; an invalid byte ends the file at its line. The delimiter is detected
in the header line, or set by --delimiter. An invalid row is refused on its own; a quote that is never closed, or closed
within a cell, ends the file at its line.`;

/** The file of messages that a command takes, and how to read it. */
export function readingFile(command: Command): Command {
  return command
    .argument('<file>', 'NDJSON, CSV or TSV, optionally .gz; - is standard input')
    .addOption(
      new Option('--input <format>', 'format of the file, if its name does not tell').choices(['ndjson', 'csv']),
    )
    .option('--delimiter <character>', 'delimiter of CSV (default: detected in the header line)', oneCharacter)
    .option(
      '--encoding <name>',
      'encoding of the file, such as windows-1252, gb18030, utf-16le (default utf-8)',
      encoding,
    )
    .option('--template <name[@version]>', 'stored template that renders the payload of each row', templateName)
    .option('--template-file <file>', 'file with a template for this run only')
    .addOption(new Option('--format <format>', 'format of --template-file').choices(['text', 'json']).default('text'))
    .option('--from-uid <uid>', 'sender of all messages')
    .option('--channel-type <type>', 'channel type of all messages: 1 to 12, or a name', channelType)
    .option('--channel-id <id>', 'channel of all messages')
    .option('--expire <seconds>', 'lifetime of all messages', wholeNumber(0, 2 ** 32 - 1))
    .option('--tag-key <word>', 'tag of all messages')
    .option('--red-dot', 'all messages count as unread')
    .option('--channel-id-column <name>', 'column with the channel id (default channel_id)')
    .option('--column <field=name>', 'column for a field or payload; repeatable', column)
    .option('--ignore-column <name>', 'column that looks like a field but is none; repeatable', collect)
    .option('--payload-base64', 'the payload column is base64')
    .option('--unique <column>', 'drop rows whose value in this column occurred before; they are counted');
}

/** Refuses what can be read only once, or never ends: the file is read several times. */
function assertFile(file: string): void {
  const stats = statSync(file);
  if (stats.isDirectory()) throw new CommandError(`${file} ${fsErrorMessages.EISDIR}`);
  if (!stats.isFile())
    throw new CommandError(`${file} is a pipe or a device, not a file: use - and standard input, as in … < ${file}`);
}

export async function readingOf(
  file: string,
  options: ReadingOptions,
  { connection, takesSendAt }: { readonly connection: Connection; readonly takesSendAt: boolean },
): Promise<Reading> {
  if (file !== '-' && !existsSync(file)) throw new CommandError(`${file} ${fsErrorMessages.ENOENT}`);
  if (file !== '-') assertFile(file);
  const shape = options.input ?? shapeOf(file);
  if (options.template !== undefined && options.templateFile !== undefined)
    throw new CommandError('--template and --template-file must not be set together');
  const templated = options.template !== undefined || options.templateFile !== undefined;
  if (shape === 'ndjson') {
    if (templated)
      throw new CommandError('--template and --template-file are for CSV: a line of NDJSON names its template');
    if ([options.column, options.channelIdColumn, options.ignoreColumn].some((each) => each !== undefined))
      throw new CommandError(
        '--column, --channel-id-column and --ignore-column are for CSV: a line of NDJSON names its fields',
      );
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
    encoding: options.encoding ?? defaultEncoding,
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

/** An open file of messages. */
export interface Opened {
  readonly source: Source;
  /** The columns of CSV, once the first entry was read. */
  columns(): Columns;
  /** Whether the --unique value of an entry occurred before. */
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
          `no column ${JSON.stringify(unique)} for --unique; the header line has: ${header.join(', ')}`,
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

/** The value of a column or field; undefined if there is none. */
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

/**
 * Pins the latest version, so that a resumed run renders the same. Without the scope to read
 * templates it stays unpinned.
 */
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
    // Named by content: reports of several runs, each with its template, can be sent as one file.
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
  if (character.length !== 1 || /["\r\n]/.test(character)) throw new InvalidArgumentError('Expected one character.');
  return character;
}

function column(text: string, before?: Record<string, string>): Record<string, string> {
  const columns = pair(text, before);
  const odd = Object.keys(columns).find(
    (field) => field !== 'payload' && !(fields as readonly string[]).includes(field),
  );
  if (odd !== undefined) throw new InvalidArgumentError(`Expected payload, ${fields.join(', ')}.`);
  return columns;
}
