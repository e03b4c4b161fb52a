// Restarts the server of the embedded PostgreSQL when its postmaster is gone.
import { setTimeout as delay } from 'node:timers/promises';
import { isAlive } from './folder.ts';
import { type EmbeddedOptions, ensureRunning, longestRelaunchMs, rotateLog, type Server } from './server.ts';

/** Time between checks that the postmaster runs. */
const superviseMs = 500;
/** Longest pause between two restarts. */
const longestPauseMs = 30_000;
/** Time between checks of the log's size. */
const logEveryMs = 60_000;

/**
 * Restarts the server whenever its postmaster is gone; any service that shares the folder may do
 * so.
 */
export interface Supervisor {
  /** Pid of the last known postmaster. */
  pid(): number;
  /** Stops restarting. */
  leave(): Promise<void>;
}

export function supervise(server: Server, first: number, options: EmbeddedOptions): Supervisor {
  const leaving = new AbortController();
  const { signal } = leaving;
  let pid = first;
  const pauseFor = (milliseconds: number) => delay(milliseconds, undefined, { ref: false, signal }).catch(() => {});

  const bringBack = async () => {
    const since = performance.now();
    options.log('embeddedExited', { pid });
    let reported = '';
    for (let pause = longestRelaunchMs; !signal.aborted; pause = Math.min(pause * 2, longestPauseMs)) {
      try {
        const back = await ensureRunning(server, options, signal);
        pid = back.pid;
        const downMs = Math.round(performance.now() - since);
        options.log('embeddedRestarted', { pid, downMs, startedHere: !back.adopted });
        return;
      } catch (error) {
        const cause = error instanceof Error ? error.message : String(error);
        if (cause !== reported && !signal.aborted) options.log('embeddedRestartFailed', { cause });
        reported = cause;
        await pauseFor(pause);
      }
    }
  };

  const watching = (async () => {
    let logSeenAt = performance.now();
    while (!signal.aborted) {
      await pauseFor(superviseMs);
      if (!signal.aborted && !isAlive(pid)) await bringBack();
      if (performance.now() - logSeenAt < logEveryMs) continue;
      logSeenAt = performance.now();
      rotateLog(server, options);
    }
  })();
  return {
    pid: () => pid,
    async leave() {
      leaving.abort();
      await watching;
    },
  };
}
