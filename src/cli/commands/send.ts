import { type Command, Option } from 'commander';
import { type Connection, calling, connectTo, patienceMinutes } from '../connect.ts';
import { aboutFiles, type ReadingOptions, readingFile, readingOf } from '../input/file-options.ts';
import { note, paint, print, printJson } from '../output/output.ts';
import type { Outcome, SendPlan } from '../send-file/plan.ts';
import { exitOf, sendFile } from '../send-file/send-file.ts';
import { CommandError, wholeNumber } from '../usage.ts';

interface SendCommandOptions extends ReadingOptions {
  readonly concurrency: number;
  readonly dryRun?: boolean;
  readonly journal?: string;
  readonly report?: string;
  readonly resume?: boolean;
  readonly restart?: boolean;
  readonly again?: boolean;
}

const about = `${aboutFiles}

Resuming:
  <file>.journal has the progress. After a run was stopped, killed or lost its service, the same command resumes it, and
  each line is stored once. The journal stays after a complete run: the same file is sent again only with --again.
  Standard input has no journal. Ctrl-C finishes the calls in flight. If the service becomes unreachable, the run retries
  for up to ${patienceMinutes} minutes; a service that is unreachable at the start is an error within seconds.
  A file that cannot be read to its end is sent up to the invalid line, which is printed; --resume continues there.
  <file>.refused.ndjson has the refused entries: {"line", "recipient", "reason", "message", "text", "draft"}. It can be
  sent as it is; its messages keep their keys. Only the owner can read these two files.

Exit codes: 0 all messages were sent, 1 error or invalid file, 2 some entries were refused, 130 interrupted.

Examples:
  sendbatch send messages.ndjson
  sendbatch send customers.csv --template welcome@3 --from-uid system --channel-type person --channel-id-column uid
  sendbatch send customers.csv --template-file hello.liquid --from-uid system --channel-type person --dry-run
  sendbatch send kunden.csv --encoding windows-1252 --from-uid news --channel-type person --unique channel_id
  sendbatch send messages.ndjson.refused.ndjson
  zcat big.ndjson.gz | sendbatch send - --json`;

export function addSend(program: Command): void {
  const command = readingFile(
    program
      .command('send')
      .summary('send a file of messages')
      .description('Sends a file of messages. A run that was stopped is resumed by the same command.'),
  )
    .option('--concurrency <n>', 'concurrent calls', wholeNumber(1, 64), 4)
    .option('--dry-run', 'run all checks, store nothing; report to <file>.dry-run.ndjson')
    .option('--journal <file>', 'journal to use instead of <file>.journal')
    .option('--report <file>', 'report to write instead of <file>.refused.ndjson')
    .option('--resume', 'resume even if the file or the options have changed')
    .addOption(new Option('--restart', 'ignore the journal and send all lines, as new messages').conflicts('resume'))
    .option('--again', 'send a file again that was sent completely, as new messages');
  calling(command)
    .addHelpText('after', about)
    .action(async (file: string, options: SendCommandOptions) => {
      const connection = connectTo(options);
      const plan = await planOf(file, options, connection);
      const outcome = await sendFile(connection.client, plan);
      const { fault } = outcome;
      const handled = outcome.sent + outcome.duplicates + outcome.refused + outcome.dropped;
      if (fault === undefined || handled > 0) await printOutcome(outcome, plan, options.json === true);
      process.exitCode = exitOf(outcome);
      if (fault !== undefined) throw new CommandError(`${fault.message}${afterFault(plan, handled)}`);
    });
}

/** Appends to a file's fault what was sent, and how to continue. */
function afterFault(plan: SendPlan, handled: number): string {
  if (handled === 0) return '; nothing was sent';
  const next = plan.file === '-' || plan.dryRun ? '' : '; correct it, and continue there with --resume';
  return `; entries before it: ${handled}, counted above; nothing after it was sent${next}`;
}

async function planOf(file: string, options: SendCommandOptions, connection: Connection): Promise<SendPlan> {
  const prefix = file === '-' ? 'stdin' : file;
  return {
    ...(await readingOf(file, options, { connection, takesSendAt: false })),
    file,
    concurrency: options.concurrency,
    dryRun: options.dryRun === true,
    journal: options.journal ?? `${prefix}.journal`,
    report: options.report ?? `${prefix}.${options.dryRun ? 'dry-run' : 'refused'}.ndjson`,
    onChange: options.restart ? 'restart' : options.resume ? 'resume' : 'refuse',
    again: options.again === true || options.restart === true,
    quiet: options.json === true,
  };
}

async function printOutcome(outcome: Outcome, plan: SendPlan, json: boolean): Promise<void> {
  const { sent, duplicates, refused, dropped, seconds, interrupted, resumed, fault } = outcome;
  if (json) {
    const counts = { sent, duplicates, refused, dropped, seconds, interrupted, dry_run: plan.dryRun };
    const more = fault === undefined ? {} : { fault: { line: fault.line, message: fault.why } };
    return await printJson(JSON.stringify({ ...counts, ...(refused > 0 ? { report: plan.report } : {}), ...more }));
  }
  const counts = [
    plan.dryRun ? `${sent} would be sent` : paint('green', `${sent} sent`),
    `${duplicates} duplicates`,
    refused > 0 ? paint('yellow', `${refused} refused`) : '0 refused',
    ...(dropped > 0 ? [`${dropped} dropped by --unique`] : []),
  ];
  await print(`${counts.join(', ')}, in ${seconds} s${resumed ? ' (earlier runs included)' : ''}`);
  if (refused > 0) note(`refused entries, with reasons: ${plan.report}`);
  if (interrupted && plan.file !== '-' && !plan.dryRun)
    note(`interrupted: run the same command again to resume (progress is in ${plan.journal})`);
}
