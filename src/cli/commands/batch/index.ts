import { type Command, Option } from 'commander';
import type { BatchState } from '../../../../gen/sendbatch/v1/batch_service_pb.ts';
import { type ConnectOptions, calling, connectTo } from '../../connect.ts';
import { aboutFiles, readingFile } from '../../input/file-options.ts';
import { note } from '../../output/output.ts';
import { zone } from '../../time.ts';
import { CommandError, wholeNumber, withExamples } from '../../usage.ts';
import { printBatch, stateList, states } from './print.ts';
import { printReach } from './reach.ts';
import { type RecallBatchOptions, recallBatch } from './recall.ts';
import { printResults } from './results.ts';
import { resumeBatch } from './resume.ts';
import { priorities, submitFile } from './submit.ts';
import { watchBatch } from './watch.ts';

const about = `
The service sends batches of up to 100,000 messages in the background, at once or at a given time, and shares its capacity
among the batches that run. watch follows a batch to its end.

Exit codes: 0 success; 1 error; 2 watch, submit --watch, retry --watch: some messages were refused, or the batch was
cancelled; 130 interrupted (the batch continues).

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
    .summary('background batches: submit, ls, show, watch, results, reach, retry, cancel, resume, recall')
    .description('Batches that the service sends in the background.')
    .addHelpText('after', about);
  const withId = (command: Command) => command.argument('<batch_id>', 'batch id, as printed by submit and ls');

  const submit = readingFile(
    batch
      .command('submit')
      .description('Submits a file as one batch. If a line is invalid, it is printed and nothing is submitted.'),
  )
    .option('--name <words>', 'name of the batch (default: the name of the file)')
    .option(
      '--request-id <key>',
      'idempotency key: a second submit with this key returns the same batch (default: a digest of file and options)',
    )
    .option('--again', 'submit a file again that was submitted before with the same options, as new messages')
    .option('--send-at <time>', 'earliest time to send, such as 2026-12-24T18:00Z; without an offset in --time-zone')
    .option('--time-zone <zone>', 'time zone of --send-at, such as Europe/Berlin', zone)
    .addOption(
      new Option('--priority <priority>', 'share of your capacity, relative to your other batches')
        .choices(Object.keys(priorities))
        .default('normal'),
    )
    .option('--watch', 'follow the batch to its end');
  withExamples(
    calling(submit).addHelpText('after', aboutFiles),
    [
      'sendbatch batch submit messages.ndjson --send-at 2026-12-24T18:00+01:00 --priority low --name christmas',
      'sendbatch batch submit messages.ndjson --send-at 2026-12-24T18:00 --time-zone Asia/Shanghai',
      'sendbatch batch submit campaign.csv --template welcome@3 --from-uid system --channel-type person --channel-id-column uid --watch',
    ],
    '0 success, 1 error; with --watch also 2 some messages were refused or the batch was cancelled, 130 interrupted (the batch continues)',
  ).action(submitFile);

  const list = batch
    .command('ls')
    .alias('list')
    .description('Lists batches, newest first.')
    .option('--state <state,state>', `only batches in these states: ${[...states.keys()].join(', ')}`, stateList)
    .option('--limit <n>', 'at most n batches', wholeNumber(1, 1_000_000), 20);
  withExamples(calling(list), [
    'sendbatch batch ls',
    'sendbatch batch ls --state queued,running --json | jq -r .batchId',
  ]).action(listBatches);

  withExamples(calling(withId(batch.command('show').description('Prints the state of a batch.'))), [
    'sendbatch batch show 6f1c…',
  ]).action(async (batchId: string, options: ConnectOptions) => {
    const { batch: found } = await connectTo(options).client.batches.getBatch({ batchId });
    if (found !== undefined) await printBatch(found, options);
  });

  withExamples(
    calling(withId(batch.command('watch').description('Follows a batch to its end.'))),
    ['sendbatch batch watch 6f1c…', 'sendbatch batch watch 6f1c… --json | jq .acceptedCount'],
    '0 all messages were sent, 1 error, 2 some messages were refused or the batch was cancelled, 130 interrupted (the batch continues)',
  ).action(async (batchId: string, options: ConnectOptions) => {
    process.exitCode = await watchBatch(connectTo(options), batchId, options);
  });

  const results = withId(
    batch.command('results').description('Prints the result of each message, as far as there is one.'),
  )
    .option('--refused', 'only refused messages, with recipient and line of the file')
    .addOption(new Option('--csv', 'as CSV with a header line').conflicts('json'));
  withExamples(calling(results), [
    'sendbatch batch results 6f1c…',
    'sendbatch batch results 6f1c… --refused --json',
    'sendbatch batch results 6f1c… --refused --csv > refused.csv',
  ]).action(printResults);

  withExamples(
    calling(withId(batch.command('reach').description('Counts who has received and read the messages of a batch.'))),
    ['sendbatch batch reach 6f1c…', 'sendbatch batch reach 6f1c… --json | jq .total.readCount'],
  ).action(printReach);

  withExamples(
    calling(
      withId(
        batch
          .command('retry')
          .description('Submits the refused messages of an ended batch as a new batch, with the same keys.'),
      ).option('--watch', 'follow the batch to its end'),
    ),
    ['sendbatch batch retry 6f1c…', 'sendbatch batch retry 6f1c… --watch'],
    '0 success, 1 error; with --watch also 2 some messages were refused or the batch was cancelled, 130 interrupted (the batch continues)',
  ).action(async (batchId: string, options: ConnectOptions & { readonly watch?: boolean }) => {
    const connection = connectTo(options);
    const { batch: made, duplicate } = await connection.client.batches.retryBatch({ batchId });
    if (made === undefined) throw new CommandError('the response of the service has no batch');
    if (duplicate && options.json !== true) note(`${batchId} was already retried, as ${made.batchId}`);
    if (!options.watch) return await printBatch(made, options);
    if (options.json !== true) note(`${made.batchId} retries ${made.messageCount} refused messages`);
    process.exitCode = await watchBatch(connection, made.batchId, options);
  });

  withExamples(
    calling(withId(batch.command('cancel').description('Cancels a batch: its remaining messages are not sent.'))),
    ['sendbatch batch cancel 6f1c…'],
  ).action(async (batchId: string, options: ConnectOptions) => {
    const { batch: found } = await connectTo(options).client.batches.cancelBatch({ batchId });
    if (found !== undefined) await printBatch(found, options);
  });

  withExamples(
    calling(
      withId(
        batch
          .command('resume')
          .description('Submits what a cancelled batch has not sent as a new batch, with the same keys.'),
      )
        .option('--send-at <time>', 'send all of it at this time (default: each message at its own time, or now)')
        .option('--time-zone <zone>', 'time zone of --send-at, such as Europe/Berlin', zone)
        .option('--watch', 'follow the batch to its end'),
    ),
    ['sendbatch batch resume 6f1c…', 'sendbatch batch resume 6f1c… --send-at 2026-12-24T18:00Z'],
    '0 success, 1 error; with --watch also 2 some messages were refused or the batch was cancelled, 130 interrupted (the batch continues)',
  ).action(resumeBatch);

  withExamples(
    calling(
      withId(
        batch
          .command('recall')
          .description('Stops a batch and takes back the messages that it has sent: their content is erased.'),
      ).option('--yes', 'recall without a confirmation'),
    ),
    ['sendbatch batch recall 6f1c…', 'sendbatch batch recall 6f1c… --yes --json | tail -1 | jq .recalledCount'],
    '0 all messages are recalled, 1 error or not confirmed, 2 some are too old or no longer kept, 130 interrupted (the recall continues)',
  ).action(async (batchId: string, options: RecallBatchOptions) => {
    process.exitCode = await recallBatch(batchId, options);
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
