// One contender of a ratio in its own process: prepares its work, warms up, reports ready, waits
// for the go, runs, reports.

import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import type { Contender, ContenderJob, ContenderResult, Sent } from './contender.ts';
import { openGrpc } from './contenders/grpc.ts';
import { openJson } from './contenders/json.ts';
import { openPeer } from './contenders/peer.ts';
import { openRaw } from './contenders/raw.ts';
import { openStore } from './contenders/store.ts';
import { randomOf } from './workload.ts';

const open: Record<ContenderJob['kind'], (job: ContenderJob) => Promise<Contender>> = {
  raw: openRaw,
  store: openStore,
  grpc: openGrpc,
  json: openJson,
  peer: openPeer,
};

const job = JSON.parse(process.argv[2] ?? '') as ContenderJob;
const contender = await open[job.kind](job);
process.send?.('ready');
await once(process, 'message');
const result = await (job.openLoop === undefined ? closedLoop(contender, job) : openLoop(contender, job, job.openLoop));
await contender.close();
process.send?.(result, () => process.disconnect());

async function closedLoop(contender: Contender, { inFlight }: ContenderJob): Promise<ContenderResult> {
  return await measured(async (note) => {
    let next = 0;
    const worker = async () => {
      for (let index = next++; index < contender.sends; index = next++) {
        const since = performance.now();
        note(await contender.send(index), since);
      }
    };
    await Promise.all(Array.from({ length: inFlight }, worker));
  });
}

/**
 * Response times count from when a batch was due, so that a stall counts for every batch that would
 * have been sent.
 */
async function openLoop(contender: Contender, { workload }: ContenderJob, rate: number): Promise<ContenderResult> {
  const random = randomOf(workload.seed);
  return await measured(async (note) => {
    const answers: Promise<void>[] = [];
    let due = performance.now();
    for (let index = 0; index < contender.sends; index++) {
      due += (-Math.log(1 - random()) / rate) * 1000;
      const wait = due - performance.now();
      if (wait > 1) await delay(wait);
      const since = due;
      answers.push(contender.send(index).then((answer) => note(answer, since)));
    }
    await Promise.all(answers);
  });
}

async function measured(run: (note: (answer: Sent, since: number) => void) => Promise<void>): Promise<ContenderResult> {
  const times: number[] = [];
  const later: number[] = [];
  const refusals: number[] = [];
  let messages = 0;
  let duplicates = 0;
  let refusedMessages = 0;
  const cpu = process.cpuUsage();
  const start = performance.now();
  await run((answer, since) => {
    if (answer === 'refused') {
      refusals.push(performance.now() - since);
      return;
    }
    times.push(performance.now() - since);
    if (since - start > 1000) later.push(performance.now() - since);
    messages += answer.stored;
    duplicates += answer.duplicates;
    refusedMessages += answer.refused ?? 0;
  });
  const seconds = (performance.now() - start) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  return {
    messages,
    duplicates,
    seconds,
    cpu: (user + system) / 1e6,
    p50: at(times, 0.5),
    p99: at(times, 0.99),
    laterP99: at(later, 0.99),
    refused: refusals.length,
    refusedMessages,
    refusedP50: at(refusals, 0.5),
    refusedP99: at(refusals, 0.99),
  };
}

function at(times: number[], share: number): number {
  times.sort((a, b) => a - b);
  return times[Math.min(times.length - 1, Math.floor(times.length * share))] ?? 0;
}
