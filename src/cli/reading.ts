import { existsSync, statSync } from 'node:fs';
import { Code, ConnectError } from '@connectrpc/connect';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { TemplateFormat } from '../../gen/sendbatch/v1/template_service_pb.ts';
import type { RequestTemplate } from '../client/index.ts';
import { channelType } from './channel-type.ts';
import type { Connection, ConnectOptions } from './connect.ts';
import { fields, type Mapping } from './draft.ts';
import { fileTroubles } from './file-trouble.ts';
import { type Shape, shapeOf } from './source.ts';
import { bodyIn } from './template.ts';
import { CommandError, pair, templateName, wholeNumber } from './usage.ts';

/** How a file of messages is read. */
export interface ReadingOptions extends ConnectOptions {
  readonly input?: Shape;
  readonly delimiter?: string;
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
}

/** What the options come to. */
export interface Reading {
  readonly shape: Shape;
  readonly delimiter: string;
  readonly mapping: Mapping;
  readonly templates: readonly RequestTemplate[];
}

export const aboutFiles = `
Files, by their names:
  *.ndjson, *.jsonl   a message a line, with the fields of the JSON routes ("payload" is base64)
  *.csv, *.tsv        a message a row, under a header line. Columns with these names fill the message's fields:
                      ${fields.join(', ').replace(/^(.{60,80},) /, '$1\n                      ')};
                      "payload" (text) is its content, unless a template makes it: then every column is a variable
                      of it. Empty cells and missing columns take the options' values.
  *.gz                any of these, packed
  -                   standard input (NDJSON, or --input csv)`;

/** The file of messages that a command takes, and how to read it. */
export function readingFile(command: Command): Command {
  return command
    .argument('<file>', 'NDJSON, CSV or TSV, also .gz; - is standard input')
    .addOption(
      new Option('--input <format>', 'what the file holds, when its name does not say').choices(['ndjson', 'csv']),
    )
    .option('--delimiter <character>', 'between columns of CSV (default "," and a tab for .tsv)', oneCharacter)
    .option('--template <name[@version]>', 'a stored template makes the payload of a row', templateName)
    .option('--template-file <file>', 'a template of this run alone makes it')
    .addOption(new Option('--format <format>', 'what --template-file makes').choices(['text', 'json']).default('text'))
    .option('--from-uid <uid>', 'the sender, for lines that name none')
    .option('--channel-type <type>', 'the same for the channel’s type: 1 to 12, or a name', channelType)
    .option('--channel-id <id>', 'the same for the channel')
    .option('--expire <seconds>', 'the same for the time that messages live', wholeNumber(0, 2 ** 32 - 1))
    .option('--tag-key <word>', 'the same for the tag')
    .option('--red-dot', 'the same for counting as unread')
    .option('--channel-id-column <name>', 'the column that is the channel’s id (default channel_id)')
    .option('--column <field=name>', 'the column that is any field, or payload; may be given more than once', column)
    .option('--payload-base64', 'the payload column is base64');
}

export async function readingOf(file: string, options: ReadingOptions, connection: Connection): Promise<Reading> {
  if (file !== '-' && !existsSync(file)) throw new CommandError(`${file} ${fileTroubles.ENOENT}`);
  if (file !== '-' && statSync(file).isDirectory()) throw new CommandError(`${file} ${fileTroubles.EISDIR}`);
  const byName = shapeOf(file);
  const shape = options.input ?? byName.shape;
  if (options.template !== undefined && options.templateFile !== undefined)
    throw new CommandError('--template and --template-file exclude each other');
  const templated = options.template !== undefined || options.templateFile !== undefined;
  if (shape === 'ndjson') {
    if (templated) throw new CommandError('--template… are for CSV: a line of NDJSON names its template itself');
    if (options.column !== undefined || options.channelIdColumn !== undefined)
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
    delimiter: options.delimiter ?? byName.delimiter,
    mapping: { ...mappingOf(options), template },
    templates,
  };
}

function mappingOf(options: ReadingOptions): Omit<Mapping, 'template'> {
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
    payloadBase64: options.payloadBase64 === true,
  };
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
  return {
    name: 'file',
    body: bodyIn(file),
    format: format === 'json' ? TemplateFormat.JSON : TemplateFormat.TEXT,
  };
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
