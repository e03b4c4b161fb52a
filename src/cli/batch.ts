import { createHash, randomUUID } from 'node:crypto';
import { basename } from 'node:path';
import { toJsonString } from '@bufbuild/protobuf';
import { timestampDate, timestampFromMs } from '@bufbuild/protobuf/wkt';
import { type Command, InvalidArgumentError, Option } from 'commander';
import {
  type Batch,
  BatchPriority,
  type BatchResult,
  BatchResultSchema,
  BatchSchema,
  BatchState,
} from '../../gen/sendbatch/v1/batch_service_pb.ts';
import type { MessageDraft } from '../../gen/sendbatch/v1/message_pb.ts';
import { reasonOf } from '../client/index.ts';
import { channelTypeName } from './channel-type.ts';
import { type Connection, type ConnectOptions, calling, connectTo } from './connect.ts';
import { createDrafts } from './draft.ts';
import { FileFault } from './file-fault.ts';
import { onInterrupt } from './interrupt.ts';
import { note, paint, plain, print, printJson, visible } from './output.ts';
import { createProgress } from './progress.ts';
import { aboutFiles, openReading, type Reading, type ReadingOptions, readingFile, readingOf } from './reading.ts';
import { createReceivers } from './receivers.ts';
import { reportedTemplates } from './reported.ts';
import type { Entry } from './source.ts';
import { describeTime, parseTime, zone } from './time.ts';
import { CommandError, exit, wholeNumber, withExamples } from './usage.ts';

const about = `
Batches of up to 100,000 messages that the service sends in the background: at their time, in turns with others. watch follows one to its end.

Exit codes: 0 done; 1 failed; 2 watch, submit --watch: some messages were refused, or the batch was cancelled; 130 interrupted (the batch goes on).

Examples:
  sendbatch batch submit campaign.csv --template welcome@3 --from-uid system --channel-type person --channel-id-column uid --watch
  sendbatch batch submit messages.ndjson --send-at 2026-12-24T18:00 --time-zone Europe/Berlin --priority low --name christmas
  sendbatch batch ls --state running
  sendbatch batch results 6f1c… --refused --csv
  sendbatch batch retry 6f1c… --watch`;

interface SubmitCommandOptions extends ReadingOptions {
  readonly name?: string;
  readonly requestId?: string;
  readonly sendAt?: string;
  readonly timeZone?: string;
  readonly again?: boolean;
  readonly priority: keyof typeof priorities;
  readonly watch?: boolean;
}

interface ListOptions extends ConnectOptions {
  readonly state?: BatchState[];
  readonly limit: number;
}

/** Bytes of a batch's name. */
const nameBytes = 128;
const priorities = { low: BatchPriority.LOW, normal: BatchPriority.NORMAL, high: BatchPriority.HIGH } as const;
const states = new Map(
  Object.entries(BatchState).flatMap(([name, value]) =>
    typeof value === 'number' && value > 0 ? [[name.toLowerCase(), value as BatchState] as const] : [],
  ),
);

export function addBatch(program: Command): void {
  const batch = program
    .command('batch')
    .summary('batches in the background: submit, ls, show, watch, results, retry, cancel')
    .description('Batches that the service sends in the background.')
    .addHelpText('after', about);
  const withId = (command: Command) => command.argument('<batch_id>', 'as submit and ls print it');

  const submit = readingFile(
    batch
      .command('submit')
      .description(
        'Hands a file to the service as one batch. A line that is at fault is named, and nothing is handed over.',
      ),
  )
    .option('--name <words>', 'a word for people (default the file’s name)')
    .option(
      '--request-id <key>',
      'the same batch when it is submitted again under this key (default: a digest of file and options)',
    )
    .option('--again', 'also when this file was submitted before with these options: a new batch, with new messages')
    .option('--send-at <time>', 'not before, such as 2026-12-24T18:00Z; without an offset by --time-zone')
    .option('--time-zone <zone>', 'whose clock --send-at is by, such as Europe/Berlin', zone)
    .addOption(
      new Option('--priority <priority>', 'how it shares your turns')
        .choices(Object.keys(priorities))
        .default('normal'),
    )
    .option('--watch', 'follow it to its end');
  withExamples(
    calling(submit).addHelpText('after', aboutFiles),
    [
      'sendbatch batch submit messages.ndjson --send-at 2026-12-24T18:00+01:00 --priority low --name christmas',
      'sendbatch batch submit messages.ndjson --send-at 2026-12-24T18:00 --time-zone Asia/Shanghai',
      'sendbatch batch submit campaign.csv --template welcome@3 --from-uid system --channel-type person --channel-id-column uid --watch',
    ],
    '0 done, 1 failed; with --watch also 2 some were refused, or it was cancelled, 130 interrupted (the batch goes on)',
  ).action(submitFile);

  const list = batch
    .command('ls')
    .alias('list')
    .description('Lists batches, the newest first.')
    .option('--state <state,state>', `only those: ${[...states.keys()].join(', ')}`, stateList)
    .option('--limit <n>', 'so many at most', wholeNumber(1, 1_000_000), 20);
  withExamples(calling(list), [
    'sendbatch batch ls',
    'sendbatch batch ls --state queued,running --json | jq -r .batchId',
  ]).action(listBatches);

  withExamples(calling(withId(batch.command('show').description('Prints where a batch stands.'))), [
    'sendbatch batch show 6f1c…',
  ]).action(async (batchId: string, options: ConnectOptions) => {
    const { batch: found } = await connectTo(options).client.batches.getBatch({ batchId });
    if (found !== undefined) await say(found, options);
  });

  withExamples(
    calling(withId(batch.command('watch').description('Follows a batch to its end.'))),
    ['sendbatch batch watch 6f1c…', 'sendbatch batch watch 6f1c… --json | jq .acceptedCount'],
    '0 all went, 1 failed, 2 some were refused, or it was cancelled, 130 interrupted (the batch goes on)',
  ).action(async (batchId: string, options: ConnectOptions) => {
    process.exitCode = await watch(connectTo(options), batchId, options);
  });

  const results = withId(batch.command('results').description('Prints what became of each message, so far.'))
    .option('--refused', 'only of those that were refused, with recipient and line of the file')
    .addOption(new Option('--csv', 'as a table with a header line').conflicts('json'));
  withExamples(calling(results), [
    'sendbatch batch results 6f1c…',
    'sendbatch batch results 6f1c… --refused --json',
    'sendbatch batch results 6f1c… --refused --csv > refused.csv',
  ]).action(printResults);

  withExamples(
    calling(
      withId(
        batch
          .command('retry')
          .description('Submits what was refused of a batch that has ended as a new batch, under the same keys.'),
      ).option('--watch', 'follow it to its end'),
    ),
    ['sendbatch batch retry 6f1c…', 'sendbatch batch retry 6f1c… --watch'],
    '0 done, 1 failed; with --watch also 2 some were refused, or it was cancelled, 130 interrupted (the batch goes on)',
  ).action(async (batchId: string, options: ConnectOptions & { readonly watch?: boolean }) => {
    const connection = connectTo(options);
    const { batch: made, duplicate } = await connection.client.batches.retryBatch({ batchId });
    if (made === undefined) throw new CommandError('the service answered without the batch');
    if (duplicate && options.json !== true) note(`${batchId} was retried before, by ${made.batchId}`);
    if (!options.watch) return await say(made, options);
    if (options.json !== true) note(`${made.batchId} sends ${made.messageCount} messages that were refused`);
    process.exitCode = await watch(connection, made.batchId, options);
  });

  withExamples(
    calling(withId(batch.command('cancel').description('Stops a batch: what was not sent is never sent.'))),
    ['sendbatch batch cancel 6f1c…'],
  ).action(async (batchId: string, options: ConnectOptions) => {
    const { batch: found } = await connectTo(options).client.batches.cancelBatch({ batchId });
    if (found !== undefined) await say(found, options);
  });
}

async function submitFile(file: string, options: SubmitCommandOptions): Promise<void> {
  const sendAt = await sendAtOf(options);
  const connection = connectTo(options);
  const reading = await readingOf(file, options, { connection, takesSendAt: true });
  const given = { name: options.name ?? nameOf(file), priority: priorities[options.priority] };
  const { messages, lines, templates, digest } = await readAll(file, reading, options.json === true);
  if (messages.length > limitMessages) throw new CommandError(tooMany(file, messages.length));
  const requestId = options.requestId ?? requestIdOf([digest, reading, sendAt], options.again === true);
  const { batch, duplicate } = await connection.client.submit(messages, {
    ...given,
    lines,
    templates: [...templates],
    requestId,
    ...(sendAt === undefined ? {} : { sendAt: timestampFromMs(sendAt) }),
  });
  const before =
    options.requestId === undefined
      ? 'the same file with the same options: --again submits it once more'
      : 'under the same --request-id';
  if (!options.watch) {
    if (duplicate) note(`${batch.batchId} was submitted before, ${before}`);
    return await say(batch, options);
  }
  note(
    `${batch.batchId} ${duplicate ? `was submitted before (${before})` : 'is submitted'}, with ${batch.messageCount} messages`,
  );
  process.exitCode = await watch(connection, batch.batchId, options);
}

/** Messages of a batch at most, as the service has it. */
const limitMessages = 100_000;

function tooMany(file: string, count: number): string {
  return `${file} has ${count} messages, and a batch has at most ${limitMessages}: split it (split -l ${limitMessages}), or use send`;
}

/** When a batch is sent, said back by both clocks: whoever typed it sees what was understood. */
async function sendAtOf({ sendAt, timeZone, json }: SubmitCommandOptions): Promise<number | undefined> {
  if (sendAt === undefined) {
    if (timeZone !== undefined) throw new CommandError('--time-zone is for --send-at, which is not given');
    return undefined;
  }
  let ms: number;
  try {
    ms = await parseTime(sendAt, timeZone);
  } catch (error) {
    throw new CommandError(`--send-at: ${error instanceof Error ? error.message : error}`, { cause: error });
  }
  const words = await describeTime(ms, timeZone ?? Intl.DateTimeFormat().resolvedOptions().timeZone);
  if (ms <= Date.now()) throw new CommandError(`--send-at: ${words} is past; without --send-at it goes now`);
  if (json !== true) note(`it is sent at ${words}`);
  return ms;
}

/** The messages of a file that is without a fault, each with its line. */
async function readAll(file: string, reading: Reading, isQuiet: boolean) {
  const hash = createHash('sha256');
  const onNote = (text: string) => {
    if (!isQuiet) note(text);
  };
  const opened = openReading(file, reading, { onNote, onBytes: (chunk) => hash.update(chunk) });
  const draftOf = createDrafts(reading.mapping);
  const receivers = createReceivers();
  const messages: MessageDraft[] = [];
  const lines: number[] = [];
  const templates = [...reading.templates];
  const faults: string[] = [];
  let [wrong, dropped] = [0, 0];
  for await (const entry of withoutFault(opened.source.entries)) {
    const draft = draftOf(entry, opened.columns());
    for (const each of reportedTemplates(entry))
      if (!templates.some(({ name }) => name === each.name)) templates.push(each);
    if (typeof draft === 'string') {
      wrong++;
      if (faults.length < shownFaults) faults.push(`line ${entry.line}: ${draft}`);
    } else if (opened.repeats(entry)) dropped++;
    else {
      if ('row' in entry.content) receivers.add(entry.line, draft);
      messages.push(draft);
      lines.push(entry.line);
    }
  }
  for (const fault of faults) note(fault);
  if (wrong > 0) throw new CommandError(`${wrong} lines of ${file} are at fault, and nothing was submitted`);
  if (dropped > 0) onNote(`${dropped} rows are dropped by --unique`);
  const repeated = receivers.words();
  if (repeated !== undefined && reading.unique === undefined) onNote(repeated);
  return { messages, lines, templates, digest: hash.digest('hex') };
}

/** A fault of the file ends it, and the batch with it. */
async function* withoutFault(entries: AsyncIterable<Entry>): AsyncGenerator<Entry> {
  try {
    yield* entries;
  } catch (error) {
    if (!(error instanceof FileFault)) throw error;
    throw new CommandError(`${error.message}; nothing was submitted`, { cause: error });
  }
}

/** Lines at fault that are named. */
const shownFaults = 20;

/** One key for one file with the same options, whatever its name: what was submitted is found, and not sent twice. */
function requestIdOf(content: unknown, isNew: boolean): string {
  if (isNew) return `file-${randomUUID()}`;
  return `file-${createHash('sha256').update(JSON.stringify(content)).digest('hex').slice(0, 40)}`;
}

/** The file's own name, without its folders and no longer than a name may be. */
function nameOf(file: string): string {
  if (file === '-') return '';
  const bytes = Buffer.from(basename(file)).subarray(0, nameBytes);
  // A character that was cut in two is left out.
  return bytes.toString().replace(/\uFFFD$/, '');
}

async function listBatches(options: ListOptions): Promise<void> {
  const { batches } = connectTo(options).client;
  let left = options.limit;
  let pageToken = '';
  do {
    const page = await batches.listBatches({ states: options.state ?? [], pageSize: Math.min(left, 1000), pageToken });
    for (const each of page.batches) await say(each, options);
    left -= page.batches.length;
    pageToken = page.nextPageToken;
  } while (pageToken !== '' && left > 0);
}

async function watch({ client }: Connection, batchId: string, { json = false }: ConnectOptions): Promise<number> {
  const stop = new AbortController();
  const interruption = onInterrupt(() => stop.abort());
  let last: Batch | undefined;
  let progress: ReturnType<typeof createProgress> | undefined;
  let before = 0;
  try {
    for await (const each of client.watch(batchId, { signal: stop.signal })) {
      if (progress === undefined) {
        before = settled(each);
        progress = createProgress({ quiet: json, total: each.messageCount, noun: 'messages', fault: 'refused' });
        progress.begin(before);
      }
      progress.show(settled(each), settled(each) - before, each.refusedCount);
      if (json) await say(each, { json });
      last = each;
    }
  } finally {
    interruption.leave();
    progress?.end();
  }
  if (interruption.came()) return exit.interrupted;
  if (last === undefined) return exit.failed;
  if (!json) await say(last, {});
  return last.state === BatchState.COMPLETED && last.refusedCount === 0 ? exit.done : exit.refused;
}

interface ResultsOptions extends ConnectOptions {
  readonly refused?: boolean;
  readonly csv?: boolean;
}

async function printResults(batchId: string, options: ResultsOptions): Promise<void> {
  const { batches } = connectTo(options).client;
  let pageToken = '';
  if (options.csv) await print(resultColumns.join(','));
  do {
    const page = await batches.listBatchResults({ batchId, refusedOnly: options.refused === true, pageToken });
    for (const each of page.results) {
      if (options.json) await printJson(toJsonString(BatchResultSchema, each));
      else await print(options.csv ? csvLine(each) : resultLine(each));
    }
    pageToken = page.nextPageToken;
  } while (pageToken !== '');
}

const resultColumns = [
  'index',
  'line',
  'from_uid',
  'channel_type',
  'channel_id',
  'client_msg_no',
  'message_id',
  'message_seq',
  'duplicate',
  'reason',
  'message',
] as const;

function csvLine(result: BatchResult): string {
  const { index, line, fromUid, channelType, channelId, clientMsgNo, messageId, messageSeq, duplicate, error } = result;
  const isRefused = error !== undefined;
  const cells = [
    index,
    line === 0 ? '' : line,
    fromUid,
    isRefused ? channelType : '',
    channelId,
    clientMsgNo,
    isRefused ? '' : messageId,
    isRefused ? '' : messageSeq,
    duplicate,
    isRefused ? (reasonOf(error) ?? 'refused') : '',
    error?.message ?? '',
  ];
  return cells.map((cell) => csvCell(String(cell))).join(',');
}

function csvCell(text: string): string {
  const shown = visible(text);
  return /[",\r\n]/.test(shown) ? `"${shown.replaceAll('"', '""')}"` : shown;
}

function resultLine(result: BatchResult): string {
  const { index, line, clientMsgNo, messageSeq, duplicate, error } = result;
  const place = `${paint('dim', String(index))}\t${plain(clientMsgNo)}`;
  if (error === undefined) return `${place}\t${messageSeq}${duplicate ? '\twas there already' : ''}`;
  const { channelType, channelId, fromUid } = result;
  const recipient = plain(`${fromUid} to ${channelTypeName(channelType)} ${channelId}`);
  const where = line === 0 ? '' : `\tline ${line}`;
  return `${place}${where}\t${recipient}\t${paint('yellow', reasonOf(error) ?? 'refused')}\t${plain(error.message)}`;
}

function settled({ acceptedCount, duplicateCount, refusedCount }: Batch): number {
  return acceptedCount + duplicateCount + refusedCount;
}

/** A batch as a line: for people, or as JSON. */
async function say(batch: Batch, { json }: ConnectOptions): Promise<void> {
  if (json) return await printJson(toJsonString(BatchSchema, batch));
  const state = [...states].find(([, value]) => value === batch.state)?.[0] ?? 'unknown';
  const colour =
    batch.state === BatchState.COMPLETED ? 'green' : batch.state === BatchState.CANCELLED ? 'yellow' : 'cyan';
  const counts = [
    `${settled(batch)} of ${batch.messageCount}`,
    ...(batch.duplicateCount > 0 ? [`${batch.duplicateCount} were there already`] : []),
    ...(batch.refusedCount > 0 ? [paint('yellow', `${batch.refusedCount} refused`)] : []),
  ];
  const waits =
    batch.nextAt !== undefined && timestampDate(batch.nextAt).getTime() > Date.now()
      ? [`next at ${timestampDate(batch.nextAt).toISOString()}`]
      : [];
  const why =
    batch.lastError === undefined ? [] : [paint('yellow', plain(reasonOf(batch.lastError) ?? batch.lastError.message))];
  const made = batch.createdAt === undefined ? '' : timestampDate(batch.createdAt).toISOString();
  await print(
    [
      batch.batchId,
      paint(colour, state.padEnd(9)),
      paint('dim', made),
      [...counts, ...waits, ...why].join(', '),
      plain(batch.name),
    ].join('  '),
  );
}

function stateList(text: string): BatchState[] {
  return text.split(',').map((each) => {
    const value = states.get(each.trim().toLowerCase());
    if (value === undefined) throw new InvalidArgumentError(`It takes ${[...states.keys()].join(', ')}.`);
    return value;
  });
}
