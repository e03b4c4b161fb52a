// A chaos run: three instances on one database, writers over every protocol, readers, and one fault
// after the other. In the end everything that callers were told must be true.
//
// - world.ts starts the processes; faults.ts lists the faults; writers.ts and readers.ts are the
//   callers; accounting.ts decides, in pure code, what is wrong.
// - Every random decision comes from the seed. The interleaving of processes does not: a seed
//   repeats what is done, not when it meets what.
import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { randomOf } from '../../bench/workload.ts';
import { temporaryFolder } from '../support/cluster.ts';
import { jsonCaller } from '../support/json.ts';
import { runToEnd } from '../support/process.ts';
import { query } from '../support/verify.ts';
import { type Account, account, type Received, type StoredMessage } from './accounting.ts';
import { type Dice, type Fault, faults } from './faults.ts';
import {
  type CommandReader,
  createWebhookReader,
  type Reader,
  readCommands,
  tailOverGrpc,
  tailOverSse,
  type WebhookReader,
} from './readers.ts';
import { createWorld, type World } from './world.ts';
import { createWriters, Ledger, sharedChannels } from './writers.ts';

export interface ChaosOptions {
  readonly seed: number;
  /** Milliseconds of faults. */
  readonly runMs: number;
  /** Milliseconds between two batches of a writer, at most. */
  readonly pauseMs?: number;
  readonly log: (line: string) => void;
  /** Damages the database or the journal before the accounting: shows that a run can fail. */
  readonly damage?: (databaseUrl: string) => Promise<void>;
}

export interface ChaosReport extends Account {
  readonly retried: number;
  readonly attempts: number;
  readonly failedAttempts: number;
  readonly webhookFailures: number;
  readonly webhookRepeats: number;
  readonly tailConnections: number;
  readonly commands: number;
  /** Failed attempts by code and reason. */
  readonly failures: ReadonlyMap<string, number>;
  /** The batches that waited longest, with the seconds since the first fault. */
  readonly slowest: readonly string[];
  /**
   * Per fault: how often it ran, and the longest time in which no batch in flight had its answer.
   */
  readonly faults: readonly { readonly name: string; readonly count: number; readonly longestMs: number }[];
  /** The summary of `verify --journal`. */
  readonly verified: string;
}

/** Pauses between faults. */
const restMs = [300, 1500] as const;
/** Readers have received everything by then. */
const patienceMs = 120_000;

export async function runChaos({ seed, runMs, pauseMs = 300, log, damage }: ChaosOptions): Promise<ChaosReport> {
  const diceOf = (name: string) => createDice(seed, name);
  const folder = temporaryFolder('chaos-journal');
  const journal = join(folder, 'acknowledged.ndjson');
  const fd = openSync(journal, 'w');
  const world = await createWorld();
  const receiver = await createWebhookReader(diceOf('receiver'));
  const ledger = new Ledger();
  ledger.onLine = (line) => writeSync(fd, line);
  const readers: Reader[] = [];
  const writers = createWriters(world.instances, { ledger, diceOf, pauseMs });
  let commands: CommandReader | undefined;
  let isOver = false;
  try {
    await createWebhook(world, receiver);
    for (const channelId of sharedChannels) {
      readers.push(tailOverSse(world.instances, channelId, diceOf(`sse ${channelId}`)));
      readers.push(tailOverGrpc(world.instances, channelId, diceOf(`grpc ${channelId}`)));
    }
    commands = readCommands(world.instances, diceOf('commands'));
    const writing = Promise.all(writers.map((writer) => writer.run(() => isOver)));
    const windows = await runFaults(world, { runMs, dice: diceOf('faults'), log, ledger });
    isOver = true;
    await writing;
    log(`all writers have their answers: ${ledger.acknowledged.length} acknowledgements`);
    receiver.recover();
    world.shiftClock(0);
    await commands.drain();
    const stored = await readStored(world.url);
    await untilReceived(stored, readers, receiver);
    await damage?.(world.url);
    const verified = await runToEnd({ DATABASE_URL: world.url }, ['verify', '--journal', journal]);
    const result = account({
      stored: damage === undefined ? stored : await readStored(world.url),
      acknowledged: ledger.acknowledged,
      attempted: ledger.attempted,
      submitted: ledger.submitted,
      abandoned: ledger.abandoned,
      tails: readers.map((reader) => reader.received()),
      webhooks: webhooksOf(stored, receiver),
      commands: commands.commands,
      observed: [...ledger.observed, ...commands.observed],
    });
    const violations = [...result.violations];
    if (verified.code !== 0) violations.push(`verify ends with ${verified.code}: ${verified.output.slice(0, 2000)}`);
    return {
      ...result,
      violations,
      retried: ledger.retried,
      attempts: ledger.attempts,
      failedAttempts: ledger.failedAttempts,
      webhookFailures: receiver.failures(),
      webhookRepeats: receiver.received().reduce((sum, { repeats }) => sum + repeats, 0),
      tailConnections: readers.reduce((sum, reader) => sum + reader.connections(), 0),
      commands: commands.commands.size,
      failures: ledger.failures,
      slowest: slowestOf(windows, ledger),
      faults: outagesOf(windows, ledger),
      verified: verified.output.trim().split('\n').at(-1) ?? '',
    };
  } finally {
    isOver = true;
    for (const reader of readers) await reader.close();
    await commands?.close();
    for (const writer of writers) writer.close();
    await world.close();
    await receiver.close();
    closeSync(fd);
    rmSync(folder, { recursive: true });
  }
}

function createDice(seed: number, name: string): Dice {
  let mixed = seed;
  for (const character of name) mixed = Math.imul(mixed, 31) + character.charCodeAt(0);
  const random = randomOf(mixed);
  const pick = (bound: number) => Math.floor(random() * bound);
  return { pick, ms: (least, most) => least + pick(most - least) };
}

interface Window {
  readonly name: string;
  readonly from: number;
  readonly to: number;
}

/** Runs every fault once, in random order, then again until the time is over. */
async function runFaults(
  world: World,
  { runMs, dice, log, ledger }: { runMs: number; dice: Dice; log: (line: string) => void; ledger: Ledger },
): Promise<Window[]> {
  const windows: Window[] = [];
  const start = performance.now();
  const run = async ({ name, run: work }: Fault) => {
    const from = performance.now();
    log(`${Math.round((from - start) / 100) / 10} s: ${name}`);
    await work(world, dice).catch((error: unknown) => ledger.observed.push(`${name}: ${String(error)}`));
    windows.push({ name, from, to: performance.now() });
  };
  let deck: Fault[] = [];
  while (performance.now() - start < runMs) {
    if (deck.length === 0) deck = shuffle(faults, dice);
    const first = deck.pop();
    if (first === undefined) break;
    // Two at a time now and then, of different kinds.
    const second = dice.pick(4) === 0 ? deck.findIndex(({ kind }) => kind !== first.kind) : -1;
    const pair = [first, ...(second === -1 ? [] : deck.splice(second, 1))];
    await Promise.all(pair.map(run));
    await delay(dice.ms(...restMs));
  }
  return windows;
}

function shuffle<T>(items: readonly T[], dice: Dice): T[] {
  const shuffled = [...items];
  for (let index = shuffled.length - 1; index > 0; index--) {
    const other = dice.pick(index + 1);
    const [a, b] = [shuffled[index], shuffled[other]];
    if (a !== undefined && b !== undefined) [shuffled[index], shuffled[other]] = [b, a];
  }
  return shuffled;
}

async function createWebhook({ instances }: World, receiver: WebhookReader): Promise<void> {
  const [first] = instances;
  const call = jsonCaller(first?.url ?? '');
  const { status, body } = await call.post('/v1/webhooks', { name: 'chaos', url: receiver.url, batch_size: 20 });
  if (status !== 200) throw new Error(`the webhook was not created: ${JSON.stringify(body)}`);
  // Instances learn of it within two seconds; what they store before is not announced.
  await delay(4000);
}

async function readStored(url: string): Promise<StoredMessage[]> {
  const rows = await query(
    url,
    `select c.channel_id, c.sequence::text, m.message_seq::text, m.message_id::text, m.client_msg_no
     from sendbatch.message m join sendbatch.channel c using (channel_key) order by c.channel_key, m.message_seq`,
  );
  return rows.map((row) => ({
    channelId: row.channel_id ?? '',
    isCommand: row.sequence === '1',
    messageSeq: Number(row.message_seq),
    messageId: Number(row.message_id),
    key: row.client_msg_no ?? '',
  }));
}

/**
 * Waits until tails and webhooks have received what is stored; the accounting says what is missing.
 */
async function untilReceived(
  stored: readonly StoredMessage[],
  readers: readonly Reader[],
  receiver: WebhookReader,
): Promise<void> {
  const counts = new Map<string, number>();
  for (const { channelId, isCommand } of stored)
    if (!isCommand) counts.set(channelId, (counts.get(channelId) ?? 0) + 1);
  const isComplete = ({ channelId, seqs }: Received) => seqs.length >= (counts.get(channelId) ?? 0);
  for (const end = performance.now() + patienceMs; performance.now() < end; await delay(50))
    if (
      readers.every((reader) => isComplete(reader.received())) &&
      webhooksOf(stored, receiver).every((each) => isComplete(each))
    )
      return;
}

/** What the receiver has of each channel of messages, also of those of which it has nothing. */
function webhooksOf(stored: readonly StoredMessage[], receiver: WebhookReader): Received[] {
  const received = new Map(receiver.received().map((each) => [each.channelId, each]));
  const channels = new Set(stored.filter(({ isCommand }) => !isCommand).map(({ channelId }) => channelId));
  return [...channels].map(
    (channelId) => received.get(channelId) ?? { name: 'webhook', channelId, seqs: [], repeats: 0 },
  );
}

/** The longest wait of a batch that was in flight during each kind of fault. */
function outagesOf(windows: readonly Window[], { waits }: Ledger): ChaosReport['faults'] {
  return [...Map.groupBy(windows, ({ name }) => name)].map(([name, each]) => {
    const during = waits.filter((wait) => each.some(({ from, to }) => wait.from < to && wait.to > from));
    return {
      name,
      count: each.length,
      longestMs: Math.round(during.reduce((longest, { from, to }) => Math.max(longest, to - from), 0)),
    };
  });
}

function slowestOf(windows: readonly Window[], { waits }: Ledger): string[] {
  const start = Math.min(...windows.map(({ from }) => from));
  return waits
    .toSorted((a, b) => b.to - b.from - (a.to - a.from))
    .slice(0, 5)
    .map(
      ({ writer, attempts, from, to }) =>
        `${writer} at ${seconds(from - start)} s: ${seconds(to - from)} s, ${attempts} attempts`,
    );
}

const seconds = (ms: number) => (ms / 1000).toFixed(1);

/** The report as text. */
export function textOf(report: ChaosReport): string {
  const { acknowledged, stored, attempts, failedAttempts, retried, violations } = report;
  const lines = [
    `${acknowledged} messages acknowledged, ${stored} stored; ${attempts} attempts, ${failedAttempts} failed, ${retried} retries`,
    `webhooks: ${report.webhookFailures} failed by the receiver, ${report.webhookRepeats} messages repeated; tails: ${report.tailConnections} connections; ${report.commands} commands`,
    `verify: ${report.verified}`,
    `failed attempts: ${[...report.failures].map(([why, count]) => `${count} ${why}`).join(', ')}`,
    `longest: ${report.slowest.join('; ')}`,
    '',
    '| fault | times | longest wait of a batch, s |',
    '| ----- | ----- | -------------------------- |',
    ...report.faults.map(({ name, count, longestMs }) => `| ${name} | ${count} | ${seconds(longestMs)} |`),
    '',
    violations.length === 0 ? 'no violations' : `${violations.length} violations:\n${violations.join('\n')}`,
  ];
  return lines.join('\n');
}
