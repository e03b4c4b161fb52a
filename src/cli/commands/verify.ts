import type { Command } from 'commander';
import type { ChannelViolation } from '../../integrity/violations.ts';
import { channelTypeName } from '../channel-type.ts';
import { withDatabase } from '../database.ts';
import { onInterrupt } from '../interrupt.ts';
import { paint, plain, print, printJson } from '../output/output.ts';
import { createProgress } from '../output/progress.ts';
import { exit } from '../usage.ts';

const about = `
Checks every channel: stored and removed messages add up to its last sequence, no idempotency key occurs twice, ids grow
with the sequence and are at most 2^53-1. Checks all channels together: no id occurs twice. Messages are neither changed
nor locked, so the service can keep running. The command reads the database with the settings of the service (DATABASE_URL
or DATA_DIR), and migrates the schema as a start of the service does.

Exit codes: 0 no violations, 1 error, 2 violations found (one line each), 130 interrupted.

Examples:
  DATABASE_URL=postgres://localhost/chat sendbatch verify
  sendbatch verify --json | jq -r 'select(.kind) | .kind'`;

export function addVerify(program: Command): void {
  program
    .command('verify')
    .summary('check the integrity of the stored messages')
    .description('Checks the integrity of the stored messages and prints each violation.')
    .option('--json', 'print one JSON object per violation, and a summary at the end')
    .addHelpText('after', about)
    .action(async ({ json = false }: { json?: boolean }) => {
      process.exitCode = await runVerify(json);
    });
}

/** Number of channels checked at the same time. */
const connections = 4;

async function runVerify(json: boolean): Promise<number> {
  const { verify } = await import('../../integrity/verify.ts');
  const began = performance.now();
  const progress = createProgress({ quiet: json, total: 1, noun: 'messages', fault: 'faults' });
  const interruption = onInterrupt(() => {});
  let [channels, messages] = [0, 0];
  const found: ChannelViolation[] = [];
  progress.begin(0);
  try {
    // Reading a large channel takes longer than any usual statement timeout.
    await withDatabase({ poolSize: connections, statementTimeoutMs: 0 }, async (db) => {
      for await (const step of verify(db, connections)) {
        ({ channels, messages } = step);
        found.push(...step.faults);
        if (json) for (const fault of step.faults) await printJson(JSON.stringify(fault));
        progress.show(step.of === 0 ? 1 : step.done / step.of, messages, found.length);
        if (interruption.came()) break;
      }
    });
  } finally {
    interruption.leave();
    progress.end();
  }
  const seconds = Math.round((performance.now() - began) / 100) / 10;
  const interrupted = interruption.came();
  if (json) {
    await print(JSON.stringify({ channels, messages, faults: found.length, seconds, interrupted }));
  } else {
    for (const fault of found) await print(lineOf(fault));
    const count = found.length === 0 ? paint('green', '0 faults') : paint('red', `${found.length} faults`);
    await print(
      `${channels} channels, ${messages} messages, ${count}, in ${seconds} s${interrupted ? ', interrupted' : ''}`,
    );
  }
  if (interrupted) return exit.interrupted;
  return found.length > 0 ? exit.refused : exit.done;
}

function lineOf({ kind, channelType, channelId, sequence, what }: ChannelViolation): string {
  const channel =
    channelType === undefined
      ? ''
      : `${channelTypeName(channelType)} ${channelId}${sequence === 1 ? ' (commands)' : ''}: `;
  return `${paint('red', kind)}\t${plain(channel + what)}`;
}
