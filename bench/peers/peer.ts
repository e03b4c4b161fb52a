import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import type { Work } from '../workload.ts';

/** Another system that stores batches of messages. */
export interface Peer {
  readonly name: string;
  /** Its guarantees: durability, and the features it shares with sendbatch. For the table. */
  readonly words: string;
  /**
   * Prepares the system; throws `NotInstalled` where it is missing. `databaseUrl`: an empty
   * database of its own.
   */
  start(databaseUrl: string): Promise<PeerServer>;
  /** Runs in the contender's process: connects, and sends batches by index. */
  open(url: string, batches: readonly (readonly Work[])[]): Promise<PeerClient>;
}

export interface PeerServer {
  readonly url: string;
  /** The process of a server that was started for the peer, without PostgreSQL. */
  readonly pid?: number;
  stop(): Promise<void>;
}

export interface PeerClient {
  /** Resolves when the system has acknowledged the whole batch. */
  send(index: number): Promise<void>;
  /**
   * Number of stored messages, so that a run can be verified; unset: `close` verifies what it can.
   */
  count?(): Promise<number>;
  close(): Promise<void>;
}

/** The peer is left out, and the table gives the reason. */
export class NotInstalled extends Error {}

/** Connections of the peers that use PostgreSQL. */
export const peerConnections = 16;

/**
 * Loads a package of bench/peers/package.json. The name is not a literal, so that the compiler does
 * not require a package that need not be installed.
 */
export async function load<T>(name: string): Promise<T> {
  try {
    return (await import(name)) as T;
  } catch (error) {
    if ((error as { code?: string }).code !== 'ERR_MODULE_NOT_FOUND') throw error;
    throw new NotInstalled(`${name} is not installed (npm install --prefix bench/peers --no-package-lock)`);
  }
}

/** Starts a server that Debian packages, and waits until its port answers. */
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

/**
 * The program that an environment variable names, for servers that neither npm nor Debian packages.
 */
export function programOf(variable: 'CENTRIFUGO' | 'WUKONGIM'): string {
  const path = process.env[variable];
  if (path === undefined || path === '') throw new NotInstalled(`${variable} names no program`);
  return path;
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

/** A message in the form for systems that store JSON. */
export function jsonOf({ clientMsgNo, fromUid, channelId, payload }: Work) {
  return { clientMsgNo, fromUid, channelId, payload: Buffer.from(payload).toString('base64') };
}
