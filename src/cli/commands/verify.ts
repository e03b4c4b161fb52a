import { closeSync, openSync } from 'node:fs';
import type { Command } from 'commander';
import type { ChannelViolation } from '../../integrity/violations.ts';
import { channelTypeName } from '../channel-type.ts';
import { withDatabase } from '../database.ts';
import { fsErrorMessages } from '../input/fs-error-messages.ts';
import { onInterrupt } from '../interrupt.ts';
import { paint, plain, print, printJson } from '../output/output.ts';
import { createProgress } from '../output/progress.ts';
import { CommandError, exit } from '../usage.ts';

const about = `
Checks every channel: stored and removed messages add up to its last sequence, no idempotency key occurs twice, ids grow
with the sequence and are at most 2^53-1; edits and recalls are numbered without gaps, messages are as these say, and
recalled ones have no content. Checks all channels together: no id occurs twice. Messages are neither changed
nor locked, so the service can keep running. The command reads the database with the settings of the service (DATABASE_URL
or DATA_DIR), and migrates the schema as a start of the service does.

With --journal it also compares acknowledged messages with the store: each must be stored under its numbers, or have been
removed because it expired or was older than its retention. A journal has one JSON object per line, in any order:
  {"channel_type":2,"channel_id":"room","message_seq":7,"message_id":28679,"from_uid":"u1","client_msg_no":"k7"}
The names are those of a send and its result; person channels are named as in the send. Optional: payload_sha256 (64 hex
digits), and sync_once, true for commands. Messages with message_seq 0 (no_persist) are never stored and only counted. A
last line without a line feed is left out if it is incomplete.

Exit codes: 0 no violations, 1 error, 2 violations found (one line each), 130 interrupted.

Examples:
  DATABASE_URL=postgres://localhost/chat sendbatch verify
  sendbatch verify --journal acknowledged.ndjson
  sendbatch verify --json | jq -r 'select(.kind) | .kind'`;

export function addVerify(program: Command): void {
  program
    .command('verify')
    .summary('check the integrity of the stored messages')
    .description('Checks the integrity of the stored messages and prints each violation.')
    .option('--json', 'print one JSON object per violation, and a summary at the end')
    .option(
      '--journal <file>',
      'NDJSON of acknowledged messages to compare with the store; repeatable',
      (file: string, files: readonly string[]) => [...files, file],
      [],
    )
    .addHelpText('after', about)
    .action(async ({ json = false, journal }: { json?: boolean; journal: readonly string[] }) => {
      process.exitCode = await runVerify(json, journal);
    });
}

/** Number of pieces checked at the same time. */
const connections = 4;
/** Violations printed at most without --json: they are printed at the end, and kept until then. */
const printedFaults = 10_000;

async function runVerify(json: boolean, journals: readonly string[]): Promise<number> {
  const [{ verify }, { verifyJournal }, { JournalError }] = await Promise.all([
    import('../../integrity/verify.ts'),
    import('../../integrity/journal.ts'),
    import('../../integrity/journal-entry.ts'),
  ]);
  for (const file of journals) assertReadable(file);
  const began = performance.now();
  const progress = createProgress({ quiet: json, total: 1, noun: 'messages', fault: 'faults' });
  const interruption = onInterrupt(() => {});
  let [channels, messages, faults] = [0, 0, 0];
  const compared = { acknowledged: 0, removed: 0, unnumbered: 0 };
  const found: ChannelViolation[] = [];
  const take = async (more: readonly ChannelViolation[]) => {
    faults += more.length;
    if (json) for (const fault of more) await printJson(JSON.stringify(fault));
    else if (found.length < printedFaults) found.push(...more.slice(0, printedFaults - found.length));
  };
  progress.begin(0);
  try {
    // Reading a large channel takes longer than any usual statement timeout.
    await withDatabase({ poolSize: connections, statementTimeoutMs: 0 }, async (db, shards) => {
      const store = { db, shards };
      for await (const step of verify(store, connections)) {
        ({ channels, messages } = step);
        await take(step.faults);
        progress.show(step.of === 0 ? 1 : step.done / step.of, messages, faults);
        if (interruption.came()) return;
      }
      for (const file of journals)
        for await (const step of verifyJournal(store, file, connections)) {
          compared.acknowledged += step.entries;
          compared.removed += step.removed;
          compared.unnumbered += step.unnumbered;
          await take(step.faults);
          progress.show(1, messages + compared.acknowledged, faults);
          if (interruption.came()) return;
        }
    });
  } catch (error) {
    if (error instanceof JournalError) throw new CommandError(error.message);
    throw error;
  } finally {
    interruption.leave();
    progress.end();
  }
  const seconds = Math.round((performance.now() - began) / 100) / 10;
  const interrupted = interruption.came();
  const ofJournals = journals.length === 0 ? {} : compared;
  if (json) {
    await print(JSON.stringify({ channels, messages, ...ofJournals, faults, seconds, interrupted }));
  } else {
    for (const fault of found) await print(lineOf(fault));
    if (faults > found.length) await print(`${faults - found.length} more are not printed (--json prints all)`);
    const count = faults === 0 ? paint('green', '0 faults') : paint('red', `${faults} faults`);
    const { acknowledged, removed, unnumbered } = compared;
    const ofJournal =
      journals.length === 0
        ? ''
        : `, ${acknowledged} acknowledged (${removed} removed since, ${unnumbered} without a number)`;
    await print(
      `${channels} channels, ${messages} messages${ofJournal}, ${count}, in ${seconds} s${interrupted ? ', interrupted' : ''}`,
    );
  }
  if (interrupted) return exit.interrupted;
  return faults > 0 ? exit.refused : exit.done;
}

/** Fails before anything is read when a journal cannot be opened. */
function assertReadable(file: string): void {
  try {
    closeSync(openSync(file, 'r'));
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    throw new CommandError(`${file} ${fsErrorMessages[code] ?? `cannot be read: ${code}`}`);
  }
}

function lineOf({ kind, channelType, channelId, sequence, what }: ChannelViolation): string {
  const channel =
    channelType === undefined
      ? ''
      : `${channelTypeName(channelType)} ${channelId}${sequence === 1 ? ' (commands)' : ''}: `;
  return `${paint('red', kind)}\t${plain(channel + what)}`;
}
