import { type Command, Option } from 'commander';
import type { BatchState } from '../../../../gen/sendbatch/v1/batch_service_pb.ts';
import { type ConnectOptions, calling, connectTo } from '../../connect.ts';
import { aboutFiles, readingFile } from '../../input/file-options.ts';
import { note } from '../../output/output.ts';
import { zone } from '../../time.ts';
import { CommandError, wholeNumber, withExamples } from '../../usage.ts';
import { printBatch, stateList, states } from './print.ts';
import { printResults } from './results.ts';
import { priorities, submitFile } from './submit.ts';
import { watchBatch } from './watch.ts';

const about = `
Batches of up to 100,000 messages that the service sends in the background: at their time, in turns with others. watch follows one to its end.

Exit codes: 0 done; 1 failed; 2 watch, submit --watch: some messages were refused, or the batch was cancelled; 130 interrupted (the batch goes on).

Examples:
  sendbatch batch submit campaign.csv --template welcome@3 --from-uid system --channel-type person --channel-id-column uid --watch
  sendbatch batch submit messages.ndjson --send-at 2026-12-24T18:00 --time-zone Europe/Berlin --priority low --name christmas
  sendbatch batch ls --state running
  sendbatch batch results 6f1c… --refused --csv
  sendbatch batch retry 6f1c… --watch`;

interface ListOptions extends ConnectOptions {
  readonly state?: BatchState[];
  readonly limit: number;
}

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
    if (found !== undefined) await printBatch(found, options);
  });

  withExamples(
    calling(withId(batch.command('watch').description('Follows a batch to its end.'))),
    ['sendbatch batch watch 6f1c…', 'sendbatch batch watch 6f1c… --json | jq .acceptedCount'],
    '0 all went, 1 failed, 2 some were refused, or it was cancelled, 130 interrupted (the batch goes on)',
  ).action(async (batchId: string, options: ConnectOptions) => {
    process.exitCode = await watchBatch(connectTo(options), batchId, options);
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
    if (!options.watch) return await printBatch(made, options);
    if (options.json !== true) note(`${made.batchId} sends ${made.messageCount} messages that were refused`);
    process.exitCode = await watchBatch(connection, made.batchId, options);
  });

  withExamples(
    calling(withId(batch.command('cancel').description('Stops a batch: what was not sent is never sent.'))),
    ['sendbatch batch cancel 6f1c…'],
  ).action(async (batchId: string, options: ConnectOptions) => {
    const { batch: found } = await connectTo(options).client.batches.cancelBatch({ batchId });
    if (found !== undefined) await printBatch(found, options);
  });
}

async function listBatches(options: ListOptions): Promise<void> {
  const { batches } = connectTo(options).client;
  let left = options.limit;
  let pageToken = '';
  do {
    const page = await batches.listBatches({ states: options.state ?? [], pageSize: Math.min(left, 1000), pageToken });
    for (const each of page.batches) await printBatch(each, options);
    left -= page.batches.length;
    pageToken = page.nextPageToken;
  } while (pageToken !== '' && left > 0);
}
