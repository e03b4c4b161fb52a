import { type Command, Option } from 'commander';
import { type Connection, calling, connectTo, patienceMinutes } from './connect.ts';
import { note, paint, print } from './output.ts';
import { aboutFiles, type ReadingOptions, readingFile, readingOf } from './reading.ts';
import { exitOf, type Outcome, sendFile, type Wish } from './send-file.ts';
import { wholeNumber } from './usage.ts';

interface SendCommandOptions extends ReadingOptions {
  readonly concurrency: number;
  readonly dryRun?: boolean;
  readonly journal?: string;
  readonly report?: string;
  readonly resume?: boolean;
  readonly restart?: boolean;
}

const about = `${aboutFiles}

Going on:
  <file>.journal says how far a run came. A run that was stopped, killed or lost its service goes on from there when the same
  command is given again, and each line is stored once. It is removed at the end. Standard input has none. Ctrl-C finishes
  the calls under way. A service that goes away meanwhile is waited for up to ${patienceMinutes} minutes; one that is not there at first
  is given up within seconds.
  <file>.refused.ndjson gets what was refused: {"line", "reason", "message", "text"}.

Exit codes: 0 all went, 1 failed, 2 some lines were refused, 130 interrupted.

Examples:
  sendbatch send messages.ndjson
  sendbatch send customers.csv --template welcome@3 --from-uid system --channel-type person --channel-id-column uid
  sendbatch send customers.csv --template-file hello.liquid --from-uid system --channel-type person --dry-run
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
  const place = file === '-' ? 'stdin' : file;
  return {
    ...(await readingOf(file, options, connection)),
    file,
    concurrency: options.concurrency,
    dryRun: options.dryRun === true,
    journal: options.journal ?? `${place}.journal`,
    report: options.report ?? `${place}.${options.dryRun ? 'dry-run' : 'refused'}.ndjson`,
    onChange: options.restart ? 'restart' : options.resume ? 'resume' : 'refuse',
    quiet: options.json === true,
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
