import { Worker } from 'node:worker_threads';
import type { Rule } from './rules.ts';
import type { JudgeRequest, JudgeResponse } from './worker.ts';

/** A thread that judges by one set of rules, one request at a time. */
export interface ModerationThread {
  readonly isAlive: boolean;
  /** Rejects when the thread has died. */
  judge(request: JudgeRequest): Promise<JudgeResponse>;
  /** Ends the thread after its current request. */
  close(): Promise<void>;
}

/** Megabytes of the thread's heap. The largest rules take a fifth of it, the worst payload less. */
const heapMb = 512;

/** Starts a thread and waits until the rules are compiled; rejects if they cannot be compiled. */
export async function startThread(rules: readonly Rule[], onDeath: (error: Error) => void): Promise<ModerationThread> {
  // In the build, the worker's file ends in .js.
  const name = import.meta.url.endsWith('.ts') ? './worker.ts' : './worker.js';
  const worker = new Worker(new URL(name, import.meta.url), {
    workerData: rules,
    resourceLimits: { maxOldGenerationSizeMb: heapMb },
  });
  let pending: { resolve: (message: unknown) => void; reject: (error: Error) => void } | undefined;
  let state: 'starting' | 'running' | 'closing' | 'dead' = 'starting';
  const nextMessage = () =>
    new Promise<unknown>((resolve, reject) => {
      pending = { resolve, reject };
    });
  worker.on('message', (message) => {
    const { resolve } = pending ?? {};
    pending = undefined;
    resolve?.(message);
  });
  const handleDeath = (error: Error) => {
    if (state === 'dead') return;
    const before = state;
    state = 'dead';
    pending?.reject(error);
    if (before === 'running') onDeath(error);
  };
  worker.on('error', (error) => handleDeath(error instanceof Error ? error : new Error(String(error))));
  worker.on('exit', (code) => handleDeath(new Error(`the thread of moderation ended with ${code}`)));
  await nextMessage();
  state = 'running';
  worker.unref();
  let lastResponse: Promise<unknown> = Promise.resolve();
  return {
    get isAlive() {
      return state === 'running';
    },
    judge(request) {
      if (state !== 'running') return Promise.reject(new Error('the thread of moderation has ended'));
      const response = nextMessage();
      // Only a busy thread keeps the process alive.
      worker.ref();
      lastResponse = response.catch(() => {}).finally(() => worker.unref());
      worker.postMessage(request, [request.bytes.buffer as ArrayBuffer]);
      return response as Promise<JudgeResponse>;
    },
    async close() {
      await lastResponse;
      if (state === 'running') state = 'closing';
      await worker.terminate();
    },
  };
}
