import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import type { Workload } from './workload.ts';

/**
 * The job of one contender of a ratio. Each runs in its own process, so that its CPU time is its
 * own.
 */
export interface ContenderJob {
  readonly kind: 'raw' | 'store' | 'grpc' | 'json' | 'peer';
  readonly workload: Workload;
  /** URL of the database or of the service. */
  readonly url: string;
  /** Concurrent batches; for raw, connections. */
  readonly inFlight: number;
  /** For raw: rows per statement. */
  readonly statementRows?: number;
  /** For raw: the sequence after which the rows of each channel begin. */
  readonly afterSeq?: number;
  /** For store: senders are not system uids, and must be members. */
  readonly ordinarySenders?: boolean;
  /** For peer: its name. */
  readonly peer?: string;
  /** For store: lanes, 0 = one transaction per batch. */
  readonly lanes?: number;
  /**
   * Batches per second at random moments (Poisson), whether or not earlier ones were answered.
   * Unset: the next batch is sent when one is answered.
   */
  readonly openLoop?: number;
  /** For json: sends batches as one message to many persons. */
  readonly toPersons?: boolean;
  /** For grpc: connections; unset: 2. */
  readonly sessions?: number;
  /** For grpc and json: counts a batch refused with UNAVAILABLE; unset: it fails the run. */
  readonly mayRefuse?: boolean;
}

/** The work of a contender between the go and its last answer. */
export interface ContenderResult {
  readonly messages: number;
  readonly duplicates: number;
  readonly seconds: number;
  /** CPU seconds of its process. */
  readonly cpu: number;
  /** Milliseconds from sending a batch to its answer. */
  readonly p50: number;
  readonly p99: number;
  /** The p99 of batches sent after the first second. */
  readonly laterP99: number;
  /** Refused batches, which no other number counts, and their response times. */
  readonly refused: number;
  /** Messages that were refused in accepted batches. */
  readonly refusedMessages: number;
  readonly refusedP50: number;
  readonly refusedP99: number;
}

/** A contender that has prepared its work and waits for the go. */
export interface ReadyContender {
  go(): Promise<ContenderResult>;
}

/** The outcome of a batch. */
export type Sent = { readonly stored: number; readonly duplicates: number; readonly refused?: number } | 'refused';

/** The implementation of a kind of contender: everything before the run is not measured. */
export interface Contender {
  /** Number of sends in the work. */
  readonly sends: number;
  /**
   * Sends batch `index`; returns how many of its messages were stored and how many were duplicates,
   * or that the batch was refused with a retryable error.
   */
  send(index: number): Promise<Sent>;
  close(): Promise<void>;
}

/** Starts a contender and waits until its work is prepared and it has warmed up. */
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
