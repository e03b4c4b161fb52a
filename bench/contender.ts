import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import type { Workload } from './workload.ts';

/** What a side of a ratio is to do. Each runs in a process of its own, so that its CPU time is its own. */
export interface ContenderJob {
  readonly kind: 'raw' | 'store' | 'grpc' | 'json' | 'peer';
  readonly workload: Workload;
  /** Of the database, or of the service. */
  readonly url: string;
  /** Batches under way at once; for raw, connections. */
  readonly inFlight: number;
  /** Of raw: rows a statement. */
  readonly statementRows?: number;
  /** Of raw: the sequence that the rows of each channel begin after. */
  readonly afterSeq?: number;
  /** Of store: senders are no system uids, and must be members. */
  readonly ordinarySenders?: boolean;
  /** Of peer: its name. */
  readonly peer?: string;
  /** Of store: lanes, 0 = one transaction a batch. */
  readonly lanes?: number;
  /** Batches a second, at random moments (Poisson), whether or not earlier ones were answered; without it the next goes when one is answered. */
  readonly openLoop?: number;
  /** Of grpc: connections; unset: 2. */
  readonly sessions?: number;
  /** Of grpc: a batch that is refused for now (UNAVAILABLE) is counted; without it the run has failed. */
  readonly mayRefuse?: boolean;
}

/** What a side did between the word go and its last answer. */
export interface ContenderResult {
  readonly messages: number;
  readonly duplicates: number;
  readonly seconds: number;
  /** CPU seconds of its process. */
  readonly cpu: number;
  /** Milliseconds from handing a batch in to its answer. */
  readonly p50: number;
  readonly p99: number;
  /** Of the batches that were handed in after the first second. */
  readonly laterP99: number;
  /** Batches that were refused, which no other number counts, and how long that took. */
  readonly refused: number;
  /** Messages that were refused in batches that were not. */
  readonly refusedMessages: number;
  readonly refusedP50: number;
  readonly refusedP99: number;
}

/** A side that has made its work and waits for the word. */
export interface ReadyContender {
  go(): Promise<ContenderResult>;
}

/** What became of a batch. */
export type Sent = { readonly stored: number; readonly duplicates: number; readonly refused?: number } | 'refused';

/** What each kind of side implements: everything before `run` is not measured. */
export interface Contender {
  /** How many sends the work is. */
  readonly sends: number;
  /** Sends batch `index` and returns how many of its messages were stored, and how many found stored, or that it was refused for now. */
  send(index: number): Promise<Sent>;
  close(): Promise<void>;
}

/** Starts a side and waits until its work is made and it has warmed up. */
export async function openContender(job: ContenderJob): Promise<ReadyContender> {
  const child = fork(join(import.meta.dirname, 'contender-main.ts'), [JSON.stringify(job)], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    execArgv: process.env.BENCH_PROFILE === job.kind ? ['--cpu-prof'] : [],
  });
  await answerOf(child);
  return {
    async go() {
      const result = answerOf(child);
      child.send('go');
      const answer = (await result) as ContenderResult;
      if (child.exitCode === null) await once(child, 'exit');
      return answer;
    },
  };
}

async function answerOf(child: ChildProcess): Promise<unknown> {
  return await new Promise((resolve, reject) => {
    child.once('message', resolve);
    child.once('exit', (code) => reject(new Error(`a contender ended with ${code}`)));
  });
}
