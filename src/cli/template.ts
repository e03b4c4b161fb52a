import { readFileSync } from 'node:fs';
import type { JsonObject } from '@bufbuild/protobuf';
import { toJsonString } from '@bufbuild/protobuf';
import { timestampDate } from '@bufbuild/protobuf/wkt';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { type Template, TemplateFormat, TemplateSchema } from '../../gen/sendbatch/v1/template_service_pb.ts';
import { type ConnectOptions, calling, connectTo } from './connect.ts';
import { paint, print } from './output.ts';
import { CommandError, pair, templateName, withExamples } from './usage.ts';

const about = `
The syntax is Liquid: {{ name }}, filters, if, for. A template of format json is escaped, and must come out as JSON. Needs the scope admin.

Exit codes: 0 done, 1 failed.

Examples:
  sendbatch template create welcome welcome.liquid
  sendbatch template preview welcome@2 --var name=Ada
  echo 'Hello {{ name }}' | sendbatch template preview --file - --vars '{"name": "Ada"}'`;

type Format = 'text' | 'json';
type Chosen = { readonly name: string; readonly version: number };

interface PreviewOptions extends ConnectOptions {
  readonly file?: string;
  readonly format: Format;
  readonly var?: Record<string, string>;
  readonly vars?: JsonObject;
}

export function addTemplate(program: Command): void {
  const template = program
    .command('template')
    .summary('templates: create, ls, get, preview, delete')
    .description('Stored templates of payloads.')
    .addHelpText('after', about);
  const format = () => new Option('--format <format>', 'what it makes').choices(['text', 'json']).default('text');
  const named = (command: Command) =>
    command.argument('<name[@version]>', 'the latest version, or this one', templateName);

  const create = template
    .command('create')
    .description('Stores a template, as the next version of its name.')
    .argument('<name>', 'letters, digits, ".", "_" and "-"')
    .argument('<file>', 'its text; - is standard input')
    .addOption(format());
  withExamples(calling(create), [
    'sendbatch template create welcome welcome.liquid',
    'sendbatch template create order order.json.liquid --format json',
  ]).action(async (name: string, file: string, options: ConnectOptions & { format: Format }) => {
    const made = await connectTo(options).templates.createTemplate({
      name,
      body: bodyIn(file),
      format: formats[options.format],
    });
    await say(made.template, options, (each) => `${each.name}@${each.version} is stored; ${needs(each)}`);
  });

  withExamples(calling(template.command('ls').alias('list').description('Lists the latest version of each.')), [
    'sendbatch template ls',
    'sendbatch template ls --json | jq -r .name',
  ]).action(async (options: ConnectOptions) => {
    const { templates } = connectTo(options);
    let pageToken = '';
    do {
      const page = await templates.listTemplates({ pageSize: 1000, pageToken });
      for (const each of page.templates) await say(each, options, lineOf);
      pageToken = page.nextPageToken;
    } while (pageToken !== '');
  });

  withExamples(calling(named(template.command('get').description('Prints the text of one; --json tells all of it.'))), [
    'sendbatch template get welcome',
    'sendbatch template get welcome@2 --json',
  ]).action(async (chosen: Chosen, options: ConnectOptions) => {
    const { template: found } = await connectTo(options).templates.getTemplate(chosen);
    await say(found, options, (each) => each.body);
  });

  const preview = template
    .command('preview')
    .description('Renders one, and prints the payload; nothing is stored or sent.')
    .argument('[name[@version]]', 'a stored one; or --file', templateName)
    .option('--file <file>', 'the text of one that is not stored; - is standard input')
    .addOption(format())
    .option('--var <name=value>', 'a variable; may be given more than once', pair)
    .option('--vars <json>', 'variables as a JSON object', jsonObject);
  withExamples(calling(preview), [
    'sendbatch template preview welcome@2 --var name=Ada',
    `sendbatch template preview --file welcome.liquid --vars '{"name": "Ada"}'`,
  ]).action(previewOne);

  withExamples(
    calling(template.command('delete').description('Deletes all versions of one.').argument('<name>', 'its name')),
    ['sendbatch template delete welcome'],
  ).action(async (name: string, options: ConnectOptions) => {
    await connectTo(options).templates.deleteTemplate({ name });
    await print(options.json ? '{}' : `${name} is deleted`);
  });
}

async function previewOne(chosen: Chosen | undefined, options: PreviewOptions): Promise<void> {
  if ((chosen === undefined) === (options.file === undefined))
    throw new CommandError('name a stored template, or give --file: one of them');
  const { payload } = await connectTo(options).templates.previewTemplate({
    ...chosen,
    ...(options.file === undefined ? {} : { body: bodyIn(options.file), format: formats[options.format] }),
    variables: { ...options.vars, ...options.var },
  });
  const text = Buffer.from(payload).toString();
  await print(options.json ? JSON.stringify({ payload: text }) : text);
}

async function say(
  template: Template | undefined,
  { json }: ConnectOptions,
  words: (template: Template) => string,
): Promise<void> {
  if (template === undefined) throw new CommandError('the service answered without the template');
  await print(json ? toJsonString(TemplateSchema, template) : words(template));
}

const formats = { text: TemplateFormat.TEXT, json: TemplateFormat.JSON };

function lineOf(template: Template): string {
  const when = template.createdAt === undefined ? '' : timestampDate(template.createdAt).toISOString();
  const format = template.format === TemplateFormat.JSON ? 'json' : 'text';
  return `${paint('bold', template.name)}@${template.version}\t${format}\t${paint('dim', when)}\t${needs(template)}`;
}

function needs({ variables }: Template): string {
  return variables.length === 0 ? 'it needs no variables' : `it needs ${variables.join(', ')}`;
}

/** A file's text, without the line end that editors put at its end: it would be in every message. */
export function bodyIn(file: string): string {
  return readFileSync(file === '-' ? 0 : file, 'utf8')
    .replace(/^\ufeff/, '')
    .replace(/\r?\n$/, '');
}

function jsonObject(text: string): JsonObject {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as JsonObject;
  } catch {
    // Said below.
  }
  throw new InvalidArgumentError('It takes a JSON object.');
}
