import { type Command, Option } from 'commander';
import { type Connection, calling, connectTo, patienceMinutes } from '../connect.ts';
import { aboutFiles, type ReadingOptions, readingFile, readingOf } from '../input/file-options.ts';
import { note, paint, print, printJson } from '../output/output.ts';
import { exitOf, type Outcome, sendFile, type Wish } from '../send-file/send-file.ts';
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

Going on:
  <file>.journal says how far a run came. A run that was stopped, killed or lost its service goes on from there when the same
  command is given again, and each line is stored once. It stays when all was sent: the same file is not sent twice unless
  --again is given. Standard input has none. Ctrl-C finishes the calls under way. A service that goes away meanwhile is
  waited for up to ${patienceMinutes} minutes; one that is not there at first is given up within seconds.
  A file that cannot be read to its end is sent up to the line at fault, which is named; --resume goes on there.
  <file>.refused.ndjson gets what was refused: {"line", "recipient", "reason", "message", "text", "draft"}. It can be sent
  as it is: its messages go under the same keys. Both files are readable by their owner alone.

Exit codes: 0 all went, 1 failed or the file is at fault, 2 some lines were refused, 130 interrupted.

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
      .description('Sends a file of messages, and goes on where a run was stopped.'),
  )
    .option('--concurrency <n>', 'calls at once', wholeNumber(1, 64), 4)
    .option('--dry-run', 'every check, nothing stored; reports to <file>.dry-run.ndjson')
    .option('--journal <file>', 'instead of <file>.journal')
    .option('--report <file>', 'instead of <file>.refused.ndjson')
    .option('--resume', 'go on, also when the file or the options have changed')
    .addOption(new Option('--restart', 'forget how far a run came: all lines go, as new messages').conflicts('resume'))
    .option('--again', 'also when this file was sent whole before: all lines go, as new messages');
  calling(command)
    .addHelpText('after', about)
    .action(async (file: string, options: SendCommandOptions) => {
      const connection = connectTo(options);
      const wish = await wishOf(file, options, connection);
      const outcome = await sendFile(connection.client, wish);
      const { fault } = outcome;
      const handled = outcome.sent + outcome.duplicates + outcome.refused + outcome.dropped;
      if (fault === undefined || handled > 0) await say(outcome, wish, options.json === true);
      process.exitCode = exitOf(outcome);
      if (fault !== undefined) throw new CommandError(`${fault.message}${afterFault(wish, handled)}`);
    });
}

/** What was done before a file's fault, and how it goes on. */
function afterFault(wish: Wish, handled: number): string {
  if (handled === 0) return '; nothing was sent';
  const goesOn =
    wish.file === '-' || wish.dryRun ? '' : '; correct it, and the same command with --resume goes on there';
  return `; nothing from there on was sent, the ${handled} before it are counted above${goesOn}`;
}

async function wishOf(file: string, options: SendCommandOptions, connection: Connection): Promise<Wish> {
  const place = file === '-' ? 'stdin' : file;
  return {
    ...(await readingOf(file, options, { connection, takesSendAt: false })),
    file,
    concurrency: options.concurrency,
    dryRun: options.dryRun === true,
    journal: options.journal ?? `${place}.journal`,
    report: options.report ?? `${place}.${options.dryRun ? 'dry-run' : 'refused'}.ndjson`,
    onChange: options.restart ? 'restart' : options.resume ? 'resume' : 'refuse',
    again: options.again === true || options.restart === true,
    quiet: options.json === true,
  };
}

async function say(outcome: Outcome, wish: Wish, json: boolean): Promise<void> {
  const { sent, duplicates, refused, dropped, seconds, interrupted, resumed, fault } = outcome;
  if (json) {
    const counts = { sent, duplicates, refused, dropped, seconds, interrupted, dry_run: wish.dryRun };
    const more = fault === undefined ? {} : { fault: { line: fault.line, message: fault.why } };
    return await printJson(JSON.stringify({ ...counts, ...(refused > 0 ? { report: wish.report } : {}), ...more }));
  }
  const counts = [
    wish.dryRun ? `${sent} would be sent` : paint('green', `${sent} sent`),
    `${duplicates} were there already`,
    refused > 0 ? paint('yellow', `${refused} refused`) : '0 refused',
    ...(dropped > 0 ? [`${dropped} dropped by --unique`] : []),
  ];
  await print(`${counts.join(', ')}, in ${seconds} s${resumed ? ' (with what an earlier run did)' : ''}`);
  if (refused > 0) note(`what was refused, and why: ${wish.report}`);
  if (interrupted && wish.file !== '-' && !wish.dryRun)
    note(`interrupted: the same command goes on (${wish.journal} says where)`);
}
