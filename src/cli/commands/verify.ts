import type { Command } from 'commander';
import type { ChannelViolation } from '../../integrity/violations.ts';
import { channelTypeName } from '../channel-type.ts';
import { withDatabase } from '../database.ts';
import { onInterrupt } from '../interrupt.ts';
import { paint, plain, print, printJson } from '../output/output.ts';
import { createProgress } from '../output/progress.ts';
import { exit } from '../usage.ts';

const about = `
Checks, of every channel: that what is kept and what was swept is as much as its head says, that no once-only key is there twice, that ids rise with the
sequence and are at most 2^53-1; and of all of them that no id is used twice. No message is changed or locked: the service may go on.
It looks into the database, so it needs the service's own settings (DATABASE_URL, or DATA_DIR), and brings the schema
up to date as a start of the service does.

Exit codes: 0 all holds, 1 failed, 2 there are faults (each is a line), 130 interrupted.

Examples:
  DATABASE_URL=postgres://localhost/chat sendbatch verify
  sendbatch verify --json | jq -r 'select(.kind) | .kind'`;

export function addVerify(program: Command): void {
  program
    .command('verify')
    .summary('check the promises of the store')
    .description('Checks the promises of the store, and names each fault.')
    .option('--json', 'an object a fault, and a summary at the end')
    .addHelpText('after', about)
    .action(async ({ json = false }: { json?: boolean }) => {
      process.exitCode = await runVerify(json);
    });
}

/** Channels are examined on as many connections at once. */
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
    // Looking at all of a large channel takes its time.
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
