import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import type { Work } from '../workload.ts';

/** Another system that batches of messages are handed to. */
export interface Peer {
  readonly name: string;
  /** What it gives: durability, and which of our features. For the table. */
  readonly words: string;
  /** Makes it ready; throws `NotInstalled` where it is not. `databaseUrl`: an empty database of its own. */
  start(databaseUrl: string): Promise<PeerServer>;
  /** In the side's process: connects, and hands in batches by index. */
  open(url: string, batches: readonly (readonly Work[])[]): Promise<PeerClient>;
}

export interface PeerServer {
  readonly url: string;
  stop(): Promise<void>;
}

export interface PeerClient {
  /** Resolves when the system has acknowledged the whole batch. */
  send(index: number): Promise<void>;
  /** Messages that it holds, so that a run can be verified. */
  count(): Promise<number>;
  close(): Promise<void>;
}

/** A peer is left out, and the table says why. */
export class NotInstalled extends Error {}

/** Connections of the peers that share PostgreSQL. */
export const peerConnections = 16;

/** A package of bench/peers/package.json. Its name is no literal, so that the compiler does not look for what need not be there. */
export async function load<T>(name: string): Promise<T> {
  try {
    return (await import(name)) as T;
  } catch (error) {
    if ((error as { code?: string }).code !== 'ERR_MODULE_NOT_FOUND') throw error;
    throw new NotInstalled(`${name} is not installed (npm install --prefix bench/peers --no-package-lock)`);
  }
}

/** Starts a server of Debian's and waits until its port answers. */
export async function startServer(
  command: string,
  args: readonly string[],
  port: number,
  env: Record<string, string> = {},
): Promise<ChildProcess> {
  const child = spawn(command, args, { stdio: 'ignore', env: { ...process.env, ...env } });
  const failed = Promise.withResolvers<never>();
  child.once('error', () => failed.reject(new NotInstalled(`${command} is not installed`)));
  child.once('exit', (code) => failed.reject(new NotInstalled(`${command} ended with ${code}`)));
  failed.promise.catch(() => {});
  for (let tries = 0; tries < 300; tries++) {
    if (await Promise.race([answers(port), failed.promise])) return child;
    await delay(100);
  }
  await stopServer(child);
  throw new NotInstalled(`${command} does not answer on port ${port} within 30 s`);
}

export async function stopServer(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGTERM');
  await gone;
}

async function answers(port: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = connect(port, '127.0.0.1');
  socket.once('connect', () => resolve(true));
  socket.once('error', () => resolve(false));
  const answer = await promise;
  socket.destroy();
  return answer;
}

/** A message as those that store JSON take it. */
export function jsonOf({ clientMsgNo, fromUid, channelId, payload }: Work) {
  return { clientMsgNo, fromUid, channelId, payload: Buffer.from(payload).toString('base64') };
}
