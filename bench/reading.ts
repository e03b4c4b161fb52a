import { setTimeout as delay } from 'node:timers/promises';
import { type Client, createClient } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { ChannelType } from '../gen/sendbatch/v1/message_pb.ts';
import { MessageService } from '../gen/sendbatch/v1/message_service_pb.ts';
import type { Machine } from './machine.ts';
import { median, residentMegabytes } from './measure.ts';
import { channelCount, randomOf } from './workload.ts';

/** Below the service's limit on streams per connection. */
const streamsEach = 200;
const channelOf = (name: string) => ({ channelId: name, channelType: ChannelType.GROUP });

/**
 * Opens this many subscriptions, each caught up; `onMessage` gets each message of each
 * subscription.
 */
async function subscribe(
  url: string,
  count: number,
  channelIdOf: (index: number) => string,
  onMessage: (sentAt: number) => void,
): Promise<() => void> {
  const abort = new AbortController();
  const caughtUp: Promise<void>[] = [];
  let client: Client<typeof MessageService> | undefined;
  for (let index = 0; index < count; index++) {
    if (client === undefined || index % streamsEach === 0)
      client = createClient(MessageService, createGrpcTransport({ baseUrl: url }));
    const stream = client.subscribe({ channels: [channelOf(channelIdOf(index))] }, { signal: abort.signal });
    const { promise, resolve } = Promise.withResolvers<void>();
    caughtUp.push(promise);
    (async () => {
      for await (const { frame } of stream) {
        if (frame.case === 'caughtUp') resolve();
        if (frame.case === 'message') onMessage(Number(Buffer.from(frame.value.payload).toString()));
      }
    })().catch(() => resolve());
  }
  await Promise.all(caughtUp);
  return () => abort.abort();
}

const readers = 500;
const messagesSent = 50;
const betweenMs = 200;

/**
 * Measures the time from before the send to each reader's message, in ms: 500 readers of one
 * channel.
 */
export async function fanOut(machine: Machine, url: string, pairs: number): Promise<string> {
  const lines: string[] = [];
  const sender = createClient(MessageService, createGrpcTransport({ baseUrl: url }));
  for (let round = 0; round < pairs; round++) {
    await machine.reset();
    const times: number[] = [];
    const stop = await subscribe(
      url,
      readers,
      () => 'fan-out',
      (sentAt) => times.push(performance.now() - sentAt),
    );
    for (let sent = 0; sent < messagesSent; sent++) {
      const payload = Buffer.from(String(performance.now()));
      await sender.sendBatch({ messages: [{ ...channelOf('fan-out'), fromUid: 'bench', payload }] });
      await delay(betweenMs);
    }
    for (let waited = 0; times.length < readers * messagesSent && waited < 100; waited++) await delay(100);
    stop();
    if (times.length !== readers * messagesSent)
      throw new Error(`${times.length} of ${readers * messagesSent} messages came`);
    times.sort((a, b) => a - b);
    const at = (share: number) => (times[Math.floor(times.length * share)] ?? 0).toFixed(1);
    lines.push(`| ${round + 1} | ${at(0.5)} | ${at(0.99)} | ${at(0.9999)} |`);
  }
  return `| round | p50 ms | p99 ms | longest ms |\n|---|---|---|---|\n${lines.join('\n')}`;
}

/** Measures the memory that 2,000 idle subscriptions take in the service. */
export async function idleReaders(url: string, pid: number): Promise<string> {
  const count = 2000;
  // Warm-up: what the first subscriptions allocate is not counted.
  (
    await subscribe(
      url,
      100,
      (index) => `warm-${index}`,
      () => {},
    )
  )();
  await delay(3000);
  const before = residentMegabytes(pid);
  const stop = await subscribe(
    url,
    count,
    (index) => `idle-${index}`,
    () => {},
  );
  await delay(20_000);
  const after = residentMegabytes(pid);
  stop();
  return `${before.toFixed(0)} MB before, ${after.toFixed(0)} MB with ${count} subscriptions, each to its own channel, after 20 s: ${(((after - before) * 1024) / count).toFixed(0)} KB each.`;
}

const reads = 500;

/**
 * Measures pages of 10 messages: of the one channel of a table without others, and of random
 * channels in a table of 10 million.
 */
export async function pages(machine: Machine, url: string): Promise<string> {
  const client = createClient(MessageService, createGrpcTransport({ baseUrl: url }));
  const lines: string[] = [];
  const pageMessages = 10;
  for (const messages of [pageMessages, 10_000_000]) {
    await machine.reset();
    const isSmall = messages === pageMessages;
    if (isSmall)
      await client.sendBatch({
        messages: Array.from({ length: pageMessages }, () => ({
          ...channelOf('channel-0'),
          fromUid: 'bench',
          payload: new Uint8Array(100),
        })),
      });
    else await machine.fill(messages);
    const random = randomOf(messages);
    const times: number[] = [];
    let before = 0;
    for (let read = -50; read < reads; read++) {
      // The first requests warm up.
      if (read === 0) before = machine.cpu();
      const rank = isSmall ? 0 : Math.floor(random() * channelCount);
      const start = performance.now();
      const page = await client.listMessages({ ...channelOf(`channel-${rank}`), limit: pageMessages });
      if (page.messages.length !== pageMessages) throw new Error(`a page of ${page.messages.length} messages`);
      if (read >= 0) times.push(performance.now() - start);
    }
    const cpu = ((machine.cpu() - before) / reads) * 1e6;
    lines.push(`| ${messages} | ${median(times).toFixed(2)} | ${cpu.toFixed(0)} |`);
  }
  await machine.reset();
  return `| messages in the table | p50 ms per page | µs of PostgreSQL per page |\n|---|---|---|\n${lines.join('\n')}`;
}
