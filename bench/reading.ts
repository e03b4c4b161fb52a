import { Agent, get } from 'node:http';
import { connect } from 'node:http2';
import { setTimeout as delay } from 'node:timers/promises';
import { create, toBinary } from '@bufbuild/protobuf';
import { createClient } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import pg from 'pg';
import { ChannelType } from '../gen/sendbatch/v1/message_pb.ts';
import { ListMessagesRequestSchema, MessageService } from '../gen/sendbatch/v1/message_service_pb.ts';
import type { Machine } from './machine.ts';
import { median, quantile, type Run, residentMegabytes, spread } from './measure.ts';
import { envelope, now, openReaders, type ReadProtocol } from './readers.ts';
import { channelCount, channelIdOf, randomOf } from './workload.ts';

const channelOf = (name: string) => ({ channelId: name, channelType: ChannelType.GROUP });
const protocolNames: Record<ReadProtocol, string> = {
  grpc: 'gRPC',
  connect: 'Connect',
  sse: 'Server-Sent Events',
};

const readers = 500;
const messagesSent = 50;
const betweenMs = 200;

/**
 * Measures the time from before the send to each reader's message, in ms: 500 readers of one
 * channel.
 */
export async function fanOut(machine: Machine, service: ServedBench, pairs: number): Promise<string> {
  const { url } = service;
  const lines: string[] = [];
  const sender = createClient(MessageService, createGrpcTransport({ baseUrl: url }));
  for (let round = 0; round < pairs; round++)
    for (const protocol of ['grpc', 'sse'] as const) {
      await machine.reset();
      // A channel of its own: the service has cached the key of one that `reset` removed.
      const name = `fan-out-${protocol}-${round}`;
      const channelIds = Array.from({ length: readers }, () => name);
      const open = await openReaders({ url, protocol, channelIds, begin: 'payload' });
      const times: number[] = [];
      const cpu = service.cpu();
      for (let sent = 0; sent < messagesSent; sent++) {
        await sender.sendBatch({
          messages: [{ ...channelOf(name), fromUid: 'bench', payload: Buffer.from(String(now())) }],
        });
        await delay(betweenMs);
      }
      for (let waited = 0; times.length < readers * messagesSent && waited < 100; waited++) {
        times.push(...(await open.take()));
        await delay(100);
      }
      const us = ((service.cpu() - cpu) / readers / messagesSent) * 1e6;
      await open.close();
      if (times.length !== readers * messagesSent)
        throw new Error(`${times.length} of ${readers * messagesSent} messages came`);
      lines.push(`| ${protocolNames[protocol]} | ${round + 1} | ${quantilesOf(times)} | ${us.toFixed(0)} |`);
    }
  return `| protocol | round | p50 ms | p99 ms | longest ms | µs of the service per delivery |\n|---|---|---|---|---|---|\n${lines.sort().join('\n')}`;
}

/** The service of a scenario. */
export interface ServedBench {
  readonly url: string;
  readonly pid: number;
  /** CPU seconds so far. */
  readonly cpu: () => number;
}

function quantilesOf(times: number[]): string {
  const at = (share: number) => quantile(times, share).toFixed(1);
  return `${at(0.5)} | ${at(0.99)} | ${at(0.9999)}`;
}

/**
 * Measures the memory that idle subscriptions take in the service, by protocol: that of 6,000
 * beside 2,000. The first ones fit into memory that the start of the process has left free.
 */
export async function idleReaders(
  start: () => Promise<ServedBench & { end(): Promise<unknown> }>,
  pairs: number,
): Promise<string> {
  const [first, more] = [2000, 6000];
  const lines: string[] = [];
  for (const protocol of ['grpc', 'connect', 'sse'] as const) {
    const runs: { before: number; few: number; many: number }[] = [];
    for (let round = 0; round < pairs; round++) {
      const service = await start();
      const megabytesWith = async (name: string, number: number) => {
        const readers = await openReaders({
          url: service.url,
          protocol,
          channelIds: Array.from({ length: number }, (_, index) => `${name}-${index}`),
          begin: 'payload',
        });
        await delay(20_000);
        return { readers, megabytes: residentMegabytes(service.pid) };
      };
      const before = residentMegabytes(service.pid);
      const few = await megabytesWith('few', first);
      const many = await megabytesWith('more', more);
      await few.readers.close();
      await many.readers.close();
      await service.end();
      runs.push({ before, few: few.megabytes, many: many.megabytes });
    }
    const cells = [
      median(runs.map((run) => run.before)).toFixed(0),
      median(runs.map((run) => run.few)).toFixed(0),
      median(runs.map((run) => run.many)).toFixed(0),
      spread(
        runs.map((run) => ((run.many - run.few) * 1024) / more),
        0,
      ),
    ];
    lines.push(`| ${protocolNames[protocol]} | ${cells.join(' | ')} |`);
  }
  return `| protocol | MB before | MB with ${first} | MB with ${first + more} | KB per subscription |\n|---|---|---|---|---|\n${lines.join('\n')}`;
}

/** Readers under load: one for each of the channels with the most messages. */
const loadedReaders = 100;

/**
 * Measures the time from the acceptance of a message, before its commit, to the reader of its
 * channel, at half of the rate that the service reached just before.
 */
export async function readersUnderLoad(
  machine: Machine,
  onNewService: <T>(
    use: (
      url: string,
      send: (openLoop: number | undefined, round: number, adds?: boolean) => Promise<Run>,
    ) => Promise<T>,
  ) => Promise<T>,
  pairs: number,
): Promise<string> {
  const lines: string[] = [];
  const p99: number[] = [];
  for (let round = 0; round < pairs; round++) {
    const full = await onNewService((_, send) => send(undefined, round));
    await machine.reset();
    // Another service: the first one remembers higher sequences than those after the reset.
    const { half, times } = await onNewService(async (url, send) => {
      const open = await openReaders({
        url,
        protocol: 'grpc',
        channelIds: Array.from({ length: loadedReaders }, (_, rank) => channelIdOf(rank)),
        begin: 'accepted',
      });
      // A service that has just started compiles its code: its first seconds are not counted.
      await send(full.rate / 2, round + 500);
      await delay(1000);
      await open.take();
      const run = await send(full.rate / 2, round, true);
      await delay(1000);
      const received = await open.take();
      await open.close();
      return { half: run, times: received };
    });
    const quantiles = quantilesOf(times);
    p99.push(times[Math.floor(times.length * 0.99)] ?? 0);
    lines.push(
      `| ${(full.rate / 1000).toFixed(1)} k | ${(half.rate / 1000).toFixed(1)} k | ${half.p50.toFixed(1)} / ${half.p99.toFixed(1)} | ${times.length} | ${quantiles} |`,
    );
  }
  return `| saturation, messages/s | sent/s | send p50 / p99 ms | received | p50 ms | p99 ms | longest ms |\n|---|---|---|---|---|---|---|\n${lines.join('\n')}\n\np99: ${spread(p99, 1)} ms.`;
}

const pageMessages = 100;
const pageReads = 1000;
const pageStatement = `
  select message_id, message_seq, accepted_at, flags, from_uid, client_msg_no, payload, expire, stream_no, tag_key, subscribers
  from sendbatch.message where channel_key = $1 and message_seq > $2 order by message_seq limit ${pageMessages}`;

/**
 * Measures the CPU of a page of 100 messages against the bare SELECT of the same rows, prepared.
 */
export async function pageAgainstSelect(machine: Machine, service: ServedBench, pairs: number): Promise<string> {
  await machine.reset();
  const client = createClient(MessageService, createGrpcTransport({ baseUrl: service.url }));
  await client.sendBatch({
    messages: Array.from({ length: 1000 }, () => ({
      ...channelOf(channelIdOf(0)),
      fromUid: 'user-000000-0123456789abcdef0123',
      payload: new Uint8Array(100),
    })),
  });
  const database = new pg.Client({ connectionString: machine.url });
  await database.connect();
  const afterOf = (read: number) => (read * 7) % 900;
  const ways: [string, () => number, (read: number) => Promise<number>][] = [
    [
      'SELECT',
      ownCpu,
      async (read) =>
        (await database.query({ name: 'page', text: pageStatement, values: [1, afterOf(read)] })).rows.length,
    ],
    ['gRPC', service.cpu, pageOverGrpc(service.url, afterOf)],
    ['JSON', service.cpu, pageOverJson(service.url, afterOf)],
  ];
  const runs = new Map<string, number[][]>(ways.map(([name]) => [name, []]));
  for (let round = -1; round < pairs; round++)
    for (const [name, nodeCpu, read] of ways) {
      const [postgres, node] = [machine.cpu(), nodeCpu()];
      const began = performance.now();
      for (let index = 0; index < pageReads; index++)
        if ((await read(index)) < pageMessages) throw new Error(`${name}: a page is incomplete`);
      const figures = [machine.cpu() - postgres, nodeCpu() - node, (performance.now() - began) / 1e3];
      // The first round warms up.
      if (round >= 0) runs.get(name)?.push(figures.map((seconds) => (seconds / pageReads) * 1e6));
    }
  await database.end();
  await machine.reset();
  const total = ([postgres = 0, node = 0]: number[]) => postgres + node;
  const base = runs.get('SELECT') ?? [];
  const lines = [...runs].map(([name, all]) => {
    const us = (index: number) => median(all.map((run) => run[index] ?? 0)).toFixed(0);
    const ratio = spread(
      all.map((run, index) => total(run) / total(base[index] ?? [])),
      2,
    );
    return `| ${name} | ${us(0)} | ${us(1)} | ${name === 'SELECT' ? '' : ratio} | ${(Number(us(2)) / 1000).toFixed(2)} |`;
  });
  return `| page by | µs of PostgreSQL | µs of Node | CPU against SELECT, times | ms per page |\n|---|---|---|---|---|\n${lines.join('\n')}`;
}

function ownCpu(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

/** Hand-written gRPC: the answer is only counted. Returns 100 when it has at least 100 payloads. */
function pageOverGrpc(url: string, afterOf: (read: number) => number): (read: number) => Promise<number> {
  const session = connect(url);
  session.unref();
  return (read) =>
    new Promise((resolve, reject) => {
      const stream = session.request({
        ':method': 'POST',
        ':path': '/sendbatch.v1.MessageService/ListMessages',
        'content-type': 'application/grpc+proto',
        te: 'trailers',
      });
      const request = create(ListMessagesRequestSchema, {
        ...channelOf(channelIdOf(0)),
        afterSeq: BigInt(afterOf(read)),
        limit: pageMessages,
      });
      let bytes = 0;
      stream
        .on('data', (chunk: Buffer) => (bytes += chunk.length))
        .once('error', reject)
        .once('end', () => resolve(bytes / 100));
      stream.end(envelope(toBinary(ListMessagesRequestSchema, request)));
    });
}

function pageOverJson(url: string, afterOf: (read: number) => number): (read: number) => Promise<number> {
  const agent = new Agent({ keepAlive: true });
  return (read) =>
    new Promise((resolve, reject) => {
      const path = `/v1/channels/${ChannelType.GROUP}/${channelIdOf(0)}/messages`;
      get(`${url}${path}?after_seq=${afterOf(read)}&limit=${pageMessages}`, { agent }, (response) => {
        let bytes = 0;
        response.on('data', (chunk: Buffer) => (bytes += chunk.length)).once('end', () => resolve(bytes / 100));
      }).once('error', reject);
    });
}

const reads = 500;

/**
 * Measures pages of 10 messages: of the one channel of a table without others, and of random
 * channels in a table of 10 million.
 */
export async function pages(machine: Machine, url: string): Promise<string> {
  const client = createClient(MessageService, createGrpcTransport({ baseUrl: url }));
  const lines: string[] = [];
  const few = 10;
  for (const messages of [few, 10_000_000]) {
    await machine.reset();
    const isSmall = messages === few;
    if (isSmall)
      await client.sendBatch({
        messages: Array.from({ length: few }, () => ({
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
      const page = await client.listMessages({ ...channelOf(`channel-${rank}`), limit: few });
      if (page.messages.length !== few) throw new Error(`a page of ${page.messages.length} messages`);
      if (read >= 0) times.push(performance.now() - start);
    }
    const cpu = ((machine.cpu() - before) / reads) * 1e6;
    lines.push(`| ${messages} | ${median(times).toFixed(2)} | ${cpu.toFixed(0)} |`);
  }
  await machine.reset();
  return `| messages in the table | p50 ms per page | µs of PostgreSQL per page |\n|---|---|---|\n${lines.join('\n')}`;
}
