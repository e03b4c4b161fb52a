import { basename } from 'node:path';
import { toJsonString } from '@bufbuild/protobuf';
import { timestampDate, timestampFromDate } from '@bufbuild/protobuf/wkt';
import { type Command, InvalidArgumentError, Option } from 'commander';
import {
  type Batch,
  BatchPriority,
  type BatchResult,
  BatchResultSchema,
  BatchSchema,
  BatchState,
} from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { type Draft, reasonOf } from '../client/index.ts';
import { type Connection, type ConnectOptions, calling, connectTo } from './connect.ts';
import { createDrafts } from './draft.ts';
import { onInterrupt } from './interrupt.ts';
import { note, paint, print } from './output.ts';
import { createProgress } from './progress.ts';
import { aboutFiles, type ReadingOptions, readingFile, readingOf } from './reading.ts';
import { openSource } from './source.ts';
import { CommandError, exit, time, wholeNumber, withExamples } from './usage.ts';

const about = `
Batches of up to 100,000 messages that the service sends in the background: at their time, in turns with others. watch follows one to its end.

Exit codes: 0 done; 1 failed; 2 watch, submit --watch: some messages were refused, or the batch was cancelled; 130 interrupted (the batch goes on).

Examples:
  sendbatch batch submit campaign.csv --template welcome@3 --from-uid system --channel-type person --channel-id-column uid --watch
  sendbatch batch submit messages.ndjson --send-at 2026-12-24T18:00+01:00 --priority low --name christmas
  sendbatch batch ls --state running
  sendbatch batch results 6f1c… --refused --json`;

interface SubmitCommandOptions extends ReadingOptions {
  readonly name?: string;
  readonly requestId?: string;
  readonly sendAt?: Date;
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
    .summary('batches in the background: submit, ls, show, watch, results, cancel')
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
    .option('--request-id <key>', 'the same batch when it is submitted again under this key')
    .option('--send-at <time>', 'not before, such as 2026-12-24T18:00Z', time)
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

  const results = withId(batch.command('results').description('Prints what became of each message, so far.')).option(
    '--refused',
    'only of those that were refused',
  );
  withExamples(calling(results), [
    'sendbatch batch results 6f1c…',
    'sendbatch batch results 6f1c… --refused --json',
  ]).action(printResults);

  withExamples(
    calling(withId(batch.command('cancel').description('Stops a batch: what was not sent is never sent.'))),
    ['sendbatch batch cancel 6f1c…'],
  ).action(async (batchId: string, options: ConnectOptions) => {
    const { batch: found } = await connectTo(options).client.batches.cancelBatch({ batchId });
    if (found !== undefined) await say(found, options);
  });
}

async function submitFile(file: string, options: SubmitCommandOptions): Promise<void> {
  const connection = connectTo(options);
  const reading = await readingOf(file, options, connection);
  const draftOf = createDrafts(reading.mapping);
  const messages: Draft[] = [];
  const faults: string[] = [];
  for await (const entry of openSource(file, reading.shape, reading.delimiter).entries) {
    const draft = draftOf(entry);
    if (typeof draft === 'string') faults.push(`line ${entry.line}: ${draft}`);
    else messages.push(draft);
  }
  if (faults.length > 0) {
    for (const fault of faults.slice(0, 20)) note(fault);
    throw new CommandError(`${faults.length} lines of ${file} are at fault, and nothing was submitted`);
  }
  const { batch, duplicate } = await connection.client.submit(messages, {
    name: options.name ?? nameOf(file),
    templates: [...reading.templates],
    priority: priorities[options.priority],
    ...(options.requestId === undefined ? {} : { requestId: options.requestId }),
    ...(options.sendAt === undefined ? {} : { sendAt: timestampFromDate(options.sendAt) }),
  });
  if (!options.watch) {
    if (duplicate) note(`${batch.batchId} was submitted before, under the same --request-id`);
    return await say(batch, options);
  }
  note(`${batch.batchId} ${duplicate ? 'was submitted before' : 'is submitted'}, with ${batch.messageCount} messages`);
  process.exitCode = await watch(connection, batch.batchId, options);
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

async function printResults(batchId: string, options: ConnectOptions & { readonly refused?: boolean }): Promise<void> {
  const { batches } = connectTo(options).client;
  let pageToken = '';
  do {
    const page = await batches.listBatchResults({ batchId, refusedOnly: options.refused === true, pageToken });
    for (const each of page.results)
      await print(options.json ? toJsonString(BatchResultSchema, each) : resultLine(each));
    pageToken = page.nextPageToken;
  } while (pageToken !== '');
}

function resultLine({ index, clientMsgNo, messageSeq, duplicate, error }: BatchResult): string {
  const place = `${paint('dim', String(index))}\t${clientMsgNo}`;
  if (error !== undefined) return `${place}\t${paint('yellow', reasonOf(error) ?? 'refused')}\t${error.message}`;
  return `${place}\t${messageSeq}${duplicate ? '\twas there already' : ''}`;
}

function settled({ acceptedCount, duplicateCount, refusedCount }: Batch): number {
  return acceptedCount + duplicateCount + refusedCount;
}

/** A batch as a line: for people, or as JSON. */
async function say(batch: Batch, { json }: ConnectOptions): Promise<void> {
  if (json) return await print(toJsonString(BatchSchema, batch));
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
    batch.lastError === undefined ? [] : [paint('yellow', reasonOf(batch.lastError) ?? batch.lastError.message)];
  const made = batch.createdAt === undefined ? '' : timestampDate(batch.createdAt).toISOString();
  await print(
    [
      batch.batchId,
      paint(colour, state.padEnd(9)),
      paint('dim', made),
      [...counts, ...waits, ...why].join(', '),
      batch.name,
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
