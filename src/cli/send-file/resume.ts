import { rmSync } from 'node:fs';
import { CommandError } from '../usage.ts';
import { type Checkpoint, compareWithSent, describeChange, fingerprintOf, readCheckpoint } from './journal.ts';
import { mappingJson, type SendPlan } from './plan.ts';

/**
 * The checkpoint to continue from; undefined to start at the first line. Throws if that is not
 * clear from the options.
 */
export async function findCheckpoint(plan: SendPlan): Promise<Checkpoint | undefined> {
  if (plan.onChange === 'restart') {
    rmSync(plan.journal, { force: true });
    return undefined;
  }
  const checkpoint = readCheckpoint(plan.journal);
  if (checkpoint?.finished !== undefined) return await afterCompletion(plan, checkpoint, checkpoint.finished.at);
  if (checkpoint === undefined || plan.onChange === 'resume') return checkpoint;
  const change = describeChange(checkpoint.input, fingerprintOf(plan.file, mappingJson(plan)));
  if (change === undefined) return checkpoint;
  throw new CommandError(
    `${plan.file} does not match ${plan.journal}: ${change}. Restore it; or use --resume to continue at line ${checkpoint.line + 1} anyway; or --restart to send all lines as new messages`,
  );
}

/**
 * Decides after a completed run: the same file is sent again only with --again, a grown one only
 * with --resume or --again.
 */
async function afterCompletion(plan: SendPlan, checkpoint: Checkpoint, at: string): Promise<Checkpoint | undefined> {
  const comparison = plan.again ? 'other' : await compareWithSent(plan.file, checkpoint, mappingJson(plan));
  if (comparison === 'other') return undefined;
  const { sent, duplicates, refused } = checkpoint.tally;
  const before = `${plan.file} was sent completely at ${at} (${sent} sent, ${duplicates} duplicates, ${refused} refused, according to ${plan.journal})`;
  if (comparison === 'same') throw new CommandError(`${before}: use --again to send all lines again, as new messages`);
  if (plan.onChange === 'resume') {
    const { finished: _, ...rest } = checkpoint;
    return { ...rest, tally: { sent: 0, duplicates: 0, refused: 0, dropped: 0 } };
  }
  throw new CommandError(
    `${before} and has grown since: use --resume to send the lines after line ${checkpoint.line}, or --again to send all lines as new messages`,
  );
}
