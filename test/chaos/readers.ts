// Readers of a chaos run: tails over SSE and gRPC that reconnect, a webhook receiver that fails,
// and a user that fetches and acknowledges its commands.
import { setTimeout as delay } from 'node:timers/promises';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { ChannelType, createSendbatch } from '../../src/client/index.ts';
import { openEvents } from '../support/events.ts';
import { jsonCaller } from '../support/json.ts';
import { messagesOf, ok, startReceiver, status } from '../support/receiver.ts';
import type { Received } from './accounting.ts';
import type { Dice } from './faults.ts';
import type { Instance } from './world.ts';
import { commandReceiver } from './writers.ts';

/** A stream that is silent for this long is read anew: the service sends a heartbeat every 15 s. */
const silentMs = 20_000;
const pauseMs = 100;

export interface Reader {
  received(): Received;
  /** Connections so far. */
  connections(): number;
  close(): Promise<void>;
}

/** Follows a channel over Server-Sent Events, as EventSource does: resumes after the last id. */
export function tailOverSse(instances: readonly Instance[], channelId: string, dice: Dice): Reader {
  const seqs: number[] = [];
  let [repeats, connections, isOver] = [0, 0, false];
  let close = () => {};
  const run = async () => {
    while (!isOver) {
      const instance = instances[dice.pick(instances.length)];
      const opening = openEvents(
        `${instance?.url}/v1/channels/2/${channelId}/events?after_seq=0`,
        seqs.length === 0 ? {} : { 'last-event-id': String(seqs.at(-1)) },
      );
      const events = await withinTime(opening).catch(() => undefined);
      connections++;
      try {
        if (events?.status !== 200) throw new Error('not open');
        close = events.close;
        while (!isOver) {
          const { event, data } = await withinTime(events.next());
          if (event !== 'message') continue;
          const seq = Number(data.message_seq);
          if (seq <= (seqs.at(-1) ?? 0)) repeats++;
          else seqs.push(seq);
        }
      } catch {
        await delay(pauseMs);
      } finally {
        events?.close();
      }
    }
  };
  const running = run();
  return {
    received: () => ({ name: 'tail over SSE', channelId, seqs, repeats }),
    connections: () => connections,
    async close() {
      isOver = true;
      close();
      await running;
    },
  };
}

async function withinTime<T>(work: Promise<T>): Promise<T> {
  const given = new AbortController();
  work.catch(() => {});
  try {
    const silence = delay(silentMs, undefined, { signal: given.signal }).then(() => {
      throw new Error('silent');
    });
    return await Promise.race([work, silence]);
  } finally {
    given.abort();
  }
}

/** Follows a channel with the client over gRPC, at another instance after each failure. */
export function tailOverGrpc(instances: readonly Instance[], channelId: string, dice: Dice): Reader {
  const seqs: number[] = [];
  let [repeats, connections] = [0, 0];
  const stopped = new AbortController();
  const run = async () => {
    while (!stopped.signal.aborted) {
      const client = createSendbatch({
        transport: createGrpcTransport({ baseUrl: instances[dice.pick(instances.length)]?.url ?? '' }),
        retry: { attempts: 3, firstPauseMs: pauseMs, longestPauseMs: 500 },
      });
      const afterSeq = BigInt(seqs.at(-1) ?? 0);
      connections++;
      try {
        const channels = [{ channelType: ChannelType.GROUP, channelId, afterSeq }];
        for await (const { messageSeq } of client.tail({ channels }, { signal: stopped.signal })) {
          const seq = Number(messageSeq);
          if (seq <= (seqs.at(-1) ?? 0)) repeats++;
          else seqs.push(seq);
        }
      } catch {
        await delay(pauseMs);
      }
    }
  };
  const running = run();
  return {
    received: () => ({ name: 'tail over gRPC', channelId, seqs, repeats }),
    connections: () => connections,
    async close() {
      stopped.abort();
      await running;
    },
  };
}

export interface WebhookReader {
  readonly url: string;
  received(): Received[];
  /** POSTs that were answered with an error or not at all. */
  failures(): number;
  /** From now on every POST is answered. */
  recover(): void;
  close(): Promise<void>;
}

/** Receives webhooks, and fails some: with an error, or by swallowing the request. */
export async function createWebhookReader(dice: Dice): Promise<WebhookReader> {
  const receiver = await startReceiver();
  const channels = new Map<string, { seqs: number[]; known: Set<number>; repeats: number }>();
  let [failures, fails] = [0, true];
  receiver.answer = (response, posted) => {
    // Read below: a run of ten minutes would keep them all.
    receiver.received.length = 0;
    const chance = dice.pick(100);
    if (fails && chance < 8) {
      failures++;
      if (chance < 6) return status(500)(response, posted);
      // Swallowed until the sender gives up.
      return undefined;
    }
    for (const { channel_id: channelId, message_seq: seq } of messagesOf(posted)) {
      const channel = channels.get(channelId) ?? { seqs: [], known: new Set(), repeats: 0 };
      channels.set(channelId, channel);
      if (channel.known.has(seq)) channel.repeats++;
      else channel.seqs.push(seq);
      channel.known.add(seq);
    }
    return ok(response, posted);
  };
  return {
    url: receiver.url,
    received: () =>
      [...channels].map(([channelId, { seqs, repeats }]) => ({ name: 'webhook', channelId, seqs, repeats })),
    failures: () => failures,
    recover() {
      fails = false;
    },
    close: () => receiver.close(),
  };
}

export interface CommandReader {
  readonly commands: ReadonlyMap<number, string>;
  readonly observed: readonly string[];
  /** Fetches what is left until nothing is. */
  drain(): Promise<void>;
  close(): Promise<void>;
}

/** Fetches the commands of a user and acknowledges them, at any instance. */
export function readCommands(instances: readonly Instance[], dice: Dice): CommandReader {
  const commands = new Map<number, string>();
  const observed: string[] = [];
  let isOver = false;
  const round = async (): Promise<number | undefined> => {
    const { post } = jsonCaller(instances[dice.pick(instances.length)]?.url ?? '');
    const { status: code, body } = await withinTime(post('/message/sync', { uid: commandReceiver, limit: 100 }));
    if (code !== 200) return undefined;
    for (const { message_seq: seq, client_msg_no: key } of body) {
      const before = commands.get(seq);
      if (before !== undefined && before !== key) observed.push(`command ${seq} was ${before} and is ${key}`);
      commands.set(seq, key);
    }
    const last = body.at(-1)?.message_seq;
    if (last !== undefined)
      await withinTime(post('/message/syncack', { uid: commandReceiver, last_message_seq: last }));
    return body.length;
  };
  const run = async () => {
    while (!isOver) {
      await round().catch(() => undefined);
      await delay(dice.ms(300, 900));
    }
  };
  const running = run();
  return {
    commands,
    observed,
    async drain() {
      isOver = true;
      await running;
      for (const end = performance.now() + 60_000; performance.now() < end; ) {
        const count = await round().catch(() => undefined);
        if (count === 0) return;
        if (count === undefined) await delay(pauseMs);
      }
      observed.push('commands cannot be fetched');
    },
    async close() {
      isOver = true;
      await running;
    },
  };
}
