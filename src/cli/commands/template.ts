import type { JsonObject } from '@bufbuild/protobuf';
import { toJsonString } from '@bufbuild/protobuf';
import { timestampDate } from '@bufbuild/protobuf/wkt';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { type Template, TemplateFormat, TemplateSchema } from '../../../gen/sendbatch/v1/template_service_pb.ts';
import { parseExactly } from '../../message-files/exact-json.ts';
import { type ConnectOptions, calling, connectTo } from '../connect.ts';
import { bodyIn, encoding } from '../input/decode.ts';
import { note, paint, plain, print, printJson, visible } from '../output/output.ts';
import { CommandError, pair, templateName, withExamples } from '../usage.ts';

const about = `
Templates are written in Liquid: {{ name }}, filters, if, for. A template of format json escapes its variables and must
render valid JSON. The commands need the scope admin.

Exit codes: 0 success, 1 error.

Examples:
  sendbatch template create welcome welcome.liquid
  sendbatch template preview welcome@2 --var name=Ada
  echo 'Hello {{ name }}' | sendbatch template preview --file - --vars '{"name": "Ada"}'`;

const rawAbout = 'print control characters as they are, not as escapes';

type Format = 'text' | 'json';
type Chosen = { readonly name: string; readonly version: number };

interface PreviewOptions extends ConnectOptions {
  readonly file?: string;
  readonly encoding?: string;
  readonly raw?: boolean;
  readonly format: Format;
  readonly var?: Record<string, string>;
  readonly vars?: JsonObject;
}

export function addTemplate(program: Command): void {
  const template = program
    .command('template')
    .summary('templates: create, ls, get, preview, delete')
    .description('Stored templates that render payloads.')
    .addHelpText('after', about);
  const format = () =>
    new Option('--format <format>', 'format of the rendered payload').choices(['text', 'json']).default('text');
  const named = (command: Command) =>
    command.argument('<name[@version]>', 'latest version, or the given one', templateName);

  const create = template
    .command('create')
    .description('Stores a template as the next version of its name.')
    .argument('<name>', 'letters, digits, ".", "_" and "-"')
    .argument('<file>', 'file of the template; - is standard input')
    .option('--encoding <name>', 'encoding of the file (default utf-8)', encoding)
    .addOption(format());
  withExamples(calling(create), [
    'sendbatch template create welcome welcome.liquid',
    'sendbatch template create order order.json.liquid --format json',
  ]).action(async (name: string, file: string, options: ConnectOptions & { format: Format; encoding?: string }) => {
    const made = await connectTo(options).templates.createTemplate({
      name,
      body: bodyIn(file, options.encoding),
      format: formats[options.format],
    });
    await say(made.template, options, (each) => `${plain(each.name)}@${each.version} stored; ${needs(each)}`);
  });

  withExamples(
    calling(template.command('ls').alias('list').description('Lists the latest version of each template.')),
    ['sendbatch template ls', 'sendbatch template ls --json | jq -r .name'],
  ).action(async (options: ConnectOptions) => {
    const { templates } = connectTo(options);
    let pageToken = '';
    do {
      const page = await templates.listTemplates({ pageSize: 1000, pageToken });
      for (const each of page.templates) await say(each, options, lineOf);
      pageToken = page.nextPageToken;
    } while (pageToken !== '');
  });

  const get = named(
    template.command('get').description('Prints the text of a template; --json prints all of its fields.'),
  );
  withExamples(calling(get.option('--raw', rawAbout)), [
    'sendbatch template get welcome',
    'sendbatch template get welcome --raw > welcome.liquid',
    'sendbatch template get welcome@2 --json',
  ]).action(async (chosen: Chosen, options: ConnectOptions & { readonly raw?: boolean }) => {
    const { template: found } = await connectTo(options).templates.getTemplate(chosen);
    if (options.json || found === undefined) return await say(found, options, () => '');
    await printText(found.body, options.raw === true);
  });

  const preview = template
    .command('preview')
    .description('Renders a template and prints the payload. Nothing is stored or sent.')
    .argument('[name[@version]]', 'a stored template; or use --file', templateName)
    .option('--file <file>', 'file of a template that is not stored; - is standard input')
    .option('--encoding <name>', 'encoding of the file (default utf-8)', encoding)
    .option('--raw', rawAbout)
    .addOption(format())
    .option('--var <name=value>', 'a variable; repeatable', pair)
    .option('--vars <json>', 'variables as a JSON object', jsonObject);
  withExamples(calling(preview), [
    'sendbatch template preview welcome@2 --var name=Ada',
    `sendbatch template preview --file welcome.liquid --vars '{"name": "Ada"}'`,
  ]).action(previewOne);

  withExamples(
    calling(
      template
        .command('delete')
        .description('Deletes all versions of a template.')
        .argument('<name>', 'name of the template'),
    ),
    ['sendbatch template delete welcome'],
  ).action(async (name: string, options: ConnectOptions) => {
    await connectTo(options).templates.deleteTemplate({ name });
    await print(options.json ? '{}' : `${plain(name)} deleted`);
  });
}

async function previewOne(chosen: Chosen | undefined, options: PreviewOptions): Promise<void> {
  if ((chosen === undefined) === (options.file === undefined))
    throw new CommandError('give either the name of a stored template or --file');
  const { payload } = await connectTo(options).templates.previewTemplate({
    ...chosen,
    ...(options.file === undefined
      ? {}
      : { body: bodyIn(options.file, options.encoding), format: formats[options.format] }),
    variables: { ...options.vars, ...options.var },
  });
  const text = Buffer.from(payload).toString();
  if (options.json) return await printJson(JSON.stringify({ payload: text }));
  await printText(text, options.raw === true);
}

/** Prints text of several lines; without --raw terminal controls are escaped. */
async function printText(text: string, raw: boolean): Promise<void> {
  const shown = raw ? text : visible(text);
  await print(shown);
  if (shown !== text) note('control characters were printed as escapes; use --raw to print them as they are');
}

async function say(
  template: Template | undefined,
  { json }: ConnectOptions,
  words: (template: Template) => string,
): Promise<void> {
  if (template === undefined) throw new CommandError('the response of the service has no template');
  if (json) return await printJson(toJsonString(TemplateSchema, template));
  await print(words(template));
}

const formats = { text: TemplateFormat.TEXT, json: TemplateFormat.JSON };

function lineOf(template: Template): string {
  const when = template.createdAt === undefined ? '' : timestampDate(template.createdAt).toISOString();
  const format = template.format === TemplateFormat.JSON ? 'json' : 'text';
  return `${paint('bold', plain(template.name))}@${template.version}\t${format}\t${paint('dim', when)}\t${needs(template)}`;
}

function needs({ variables }: Template): string {
  return variables.length === 0 ? 'no variables' : `variables: ${plain(variables.join(', '))}`;
}

function jsonObject(text: string): JsonObject {
  try {
    const value = parseExactly(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value;
  } catch (error) {
    throw new InvalidArgumentError(`Expected a JSON object: ${error instanceof Error ? error.message : error}.`);
  }
  throw new InvalidArgumentError('Expected a JSON object.');
}
