import { existsSync } from 'node:fs';
import { Code, ConnectError } from '@connectrpc/connect';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { TemplateFormat } from '../../gen/sendbatch/v1/template_service_pb.ts';
import { channelType } from './channel-type.ts';
import { type Connection, type ConnectOptions, calling, connectTo } from './connect.ts';
import { fields, type Mapping } from './draft.ts';
import { note, paint, print } from './output.ts';
import { exitOf, type Outcome, sendFile, type Wish } from './send-file.ts';
import { type Shape, shapeOf } from './source.ts';
import { bodyIn } from './template.ts';
import { CommandError, pair, templateName, wholeNumber } from './usage.ts';

interface SendCommandOptions extends ConnectOptions {
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
  readonly concurrency: number;
  readonly dryRun?: boolean;
  readonly journal?: string;
  readonly report?: string;
  readonly resume?: boolean;
  readonly restart?: boolean;
}

const about = `
Files, by their names:
  *.ndjson, *.jsonl   a message a line, with the fields of the JSON routes ("payload" is base64)
  *.csv, *.tsv        a message a row, under a header line. Columns with these names fill the message's fields:
                      ${fields.join(', ').replace(/^(.{60,80},) /, '$1\n                      ')};
                      "payload" (text) is its content, unless a template makes it: then every column is a variable
                      of it. Empty cells and missing columns take the options' values.
  *.gz                any of these, packed
  -                   standard input (NDJSON, or --input csv); without a journal

Going on:
  <file>.journal says how far a run came. A run that was stopped, killed or lost its service goes on from there when the same
  command is given again, and each line is stored once. It is removed at the end. Ctrl-C finishes the calls under way.
  <file>.refused.ndjson gets what was refused: {"line", "reason", "message", "text"}.

Exit codes: 0 all went, 1 failed, 2 some lines were refused, 130 interrupted.

Examples:
  sendbatch send messages.ndjson
  sendbatch send customers.csv --template welcome@3 --from-uid system --channel-type person --channel-id-column uid
  sendbatch send customers.csv --template-file hello.liquid --from-uid system --channel-type person --dry-run
  zcat big.ndjson.gz | sendbatch send - --json`;

export function addSend(program: Command): void {
  const command = program
    .command('send')
    .summary('send a file of messages')
    .description('Sends a file of messages, and goes on where a run was stopped.')
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
    .option('--payload-base64', 'the payload column is base64')
    .option('--concurrency <n>', 'calls at once', wholeNumber(1, 64), 4)
    .option('--dry-run', 'every check, nothing stored; reports to <file>.dry-run.ndjson')
    .option('--journal <file>', 'instead of <file>.journal')
    .option('--report <file>', 'instead of <file>.refused.ndjson')
    .option('--resume', 'go on, also when the file or the options have changed')
    .addOption(new Option('--restart', 'forget how far a run came: all lines go, as new messages').conflicts('resume'));
  calling(command)
    .addHelpText('after', about)
    .action(async (file: string, options: SendCommandOptions) => {
      const connection = connectTo(options);
      const wish = await wishOf(file, options, connection);
      const outcome = await sendFile(connection.client, wish);
      await say(outcome, wish, options.json === true);
      process.exitCode = exitOf(outcome);
    });
}

async function wishOf(file: string, options: SendCommandOptions, connection: Connection): Promise<Wish> {
  if (file !== '-' && !existsSync(file)) throw new CommandError(`${file} is not there`);
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
  const place = file === '-' ? 'stdin' : file;
  return {
    file,
    shape,
    delimiter: options.delimiter ?? byName.delimiter,
    mapping: { ...mappingOf(options), template },
    templates,
    concurrency: options.concurrency,
    dryRun: options.dryRun === true,
    journal: options.journal ?? `${place}.journal`,
    report: options.report ?? `${place}.${options.dryRun ? 'dry-run' : 'refused'}.ndjson`,
    onChange: options.restart ? 'restart' : options.resume ? 'resume' : 'refuse',
    quiet: options.json === true,
  };
}

function mappingOf(options: SendCommandOptions): Omit<Mapping, 'template'> {
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

async function say(outcome: Outcome, wish: Wish, json: boolean): Promise<void> {
  const { sent, duplicates, refused, seconds, interrupted, resumed } = outcome;
  if (json) {
    const counts = { sent, duplicates, refused, seconds, interrupted, dry_run: wish.dryRun };
    return await print(JSON.stringify({ ...counts, ...(refused > 0 ? { report: wish.report } : {}) }));
  }
  const counts = [
    wish.dryRun ? `${sent} would be sent` : paint('green', `${sent} sent`),
    `${duplicates} were there already`,
    refused > 0 ? paint('yellow', `${refused} refused`) : '0 refused',
  ];
  await print(`${counts.join(', ')}, in ${seconds} s${resumed ? ' (with what an earlier run did)' : ''}`);
  if (refused > 0) note(`what was refused, and why: ${wish.report}`);
  if (interrupted && wish.file !== '-' && !wish.dryRun)
    note(`interrupted: the same command goes on (${wish.journal} says where)`);
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
