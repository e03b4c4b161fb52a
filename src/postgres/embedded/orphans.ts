import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/**
 * Finds processes of a cluster whose postmaster is gone. They end when they next wait; one that is
 * stopped or busy holds the shared memory, and PostgreSQL does not start before it has ended. Linux
 * only.
 */
export function orphansOf(cluster: string): number[] {
  const here = listProcesses().filter((pid) => workingFolder(pid) === cluster);
  const ofCluster = new Set(here);
  return here.filter((pid) => commandOf(pid)?.startsWith('postgres: ') === true && !ofCluster.has(parentOf(pid)));
}

function listProcesses(): number[] {
  return process.platform === 'linux'
    ? readdirSync('/proc')
        .filter((name) => /^\d+$/.test(name))
        .map(Number)
    : [];
}

function workingFolder(pid: number): string | undefined {
  return orGone(() => readlinkSync(`/proc/${pid}/cwd`));
}

function commandOf(pid: number): string | undefined {
  return orGone(() => readFileSync(`/proc/${pid}/cmdline`, 'utf8'));
}

function parentOf(pid: number): number {
  const status = orGone(() => readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(/^PPid:\s+(\d+)$/m.exec(status ?? '')?.[1] ?? 0);
}

/** Undefined when the process has ended or belongs to another user. */
function orGone<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
