import type { Command } from 'commander';
import { loadConfig } from '../../config/index.ts';
import { openingShards } from '../database.ts';
import { note, print, printJson, visible } from '../output/output.ts';
import { CommandError, wholeNumber, withExamples } from '../usage.ts';

const aboutSplit = `
Stop every instance before. Rows are copied to the schemas of the new shards in chunks, compared by counts and digests,
and only then removed from where they were: the database needs room for both. A split that was interrupted or killed
continues when it is called again; no instance starts until it has ended. Keys, sequences and ids of messages stay the
same. Start the service with SHARDS set to the new number afterwards.`;

interface SplitCall {
  readonly to?: number;
  readonly cancel?: boolean;
}

export function addShards(program: Command): void {
  const shards = program
    .command('shards')
    .summary('list the shards of the database, or divide it into more')
    .description('Shards of the database: the schemas among which the tables of channels are divided.');
  withExamples(shards, ['sendbatch shards list', 'sendbatch shards split --to 8']);
  withExamples(
    shards
      .command('list')
      .description('Prints each shard: its schema, its node on Citus, its size, and the messages and channels in it.')
      .option('--json', 'print one JSON object per shard'),
    ['sendbatch shards list', "sendbatch shards list --json | jq -r '[.schema, .messages] | @tsv'"],
  ).action(async ({ json = false }: { json?: boolean }) => await list(json));
  const split = shards
    .command('split')
    .summary('divide the database of a stopped service into more shards')
    .description('Divides the database of a stopped service into more shards.')
    .option('--to <number>', 'the number of shards: a power of two, larger than now', wholeNumber(2, 1024))
    .option('--cancel', 'end a split that has not removed anything yet, and remove its copies');
  withExamples(split.addHelpText('after', aboutSplit), [
    'sendbatch shards split --to 8',
    'sendbatch shards split --cancel',
  ]).action(async (call: SplitCall) => await runSplit(call));
}

async function list(json: boolean): Promise<void> {
  const { shards, split } = await openingShards(loadConfig(), (open) => open.list());
  if (json) {
    for (const shard of shards) await printJson(JSON.stringify(shard));
    return;
  }
  for (const { schema, node, bytes, messages, channels } of shards)
    await print(
      visible([schema, node || '-', sizeOf(bytes), `${messages} messages`, `${channels} channels`].join('\t')),
    );
  if (split !== undefined)
    note(`a split into ${split.to} shards is under way: shards split --to ${split.to} continues it`);
}

function sizeOf(bytes: number): string {
  const size = bytes / 2 ** 20;
  return size < 10 ? `${size.toFixed(1)} MiB` : `${Math.round(size)} MiB`;
}

async function runSplit({ to, cancel = false }: SplitCall): Promise<void> {
  if (cancel === (to !== undefined)) throw new CommandError('name either --to or --cancel');
  if (to === undefined) {
    await openingShards(loadConfig(), (open) => open.cancelSplit());
    return await print('the split is canceled, its copies are removed');
  }
  let copied = 0;
  let [step, saidAt] = ['', 0];
  await openingShards(loadConfig(), (open) =>
    open.split({
      to,
      onProgress(progress) {
        copied += progress.messages;
        if (progress.step === step && performance.now() - saidAt < saidEveryMs) return;
        [step, saidAt] = [progress.step, performance.now()];
        note(step === 'copying' ? `copying: ${copied} messages` : step);
      },
    }),
  );
  await print(`${copied} messages copied; the database has ${to} shards: set SHARDS=${to}`);
}

/** Time between notes of progress. */
const saidEveryMs = 5000;
