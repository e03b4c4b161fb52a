import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { createClient } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { randomOf } from '../../bench/workload.ts';
import { ChannelType, type Message } from '../../gen/sendbatch/v1/message_pb.ts';
import { MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { openEvents } from '../support/events.ts';
import { type ServiceProcess, spawnService } from '../support/process.ts';
import { seedOf } from '../support/seed.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound } from '../support/verify.ts';

const channelType = ChannelType.GROUP;
const channelIds = ['c0', 'c1'];
const writers = 4;
const steps = 30;
/** Until a reader reaches the end, or an instance answers again. */
const patienceMs = 120_000;

/** A message as a reader sees it. */
type Seen = readonly [state: number, revision: number, text: string];

/** What a reader of one channel has seen. */
class View {
  readonly messages = new Map<number, Seen>();
  lastSeq = 0;
  lastChange = 0;
  readonly #name: string;

  constructor(name: string) {
    this.#name = name;
  }

  onMessage(seq: number, seen: Seen): void {
    assert.equal(seq, this.lastSeq + 1, `${this.#name}: message ${seq} after ${this.lastSeq}`);
    this.lastSeq = seq;
    this.messages.set(seq, seen);
  }

  onChange(change: number, seq: number, seen: Seen): void {
    assert.equal(change, this.lastChange + 1, `${this.#name}: change ${change} after ${this.lastChange}`);
    assert.ok(seq <= this.lastSeq, `${this.#name}: a change of message ${seq} before it`);
    this.lastChange = change;
    const [state = 0, revision = 0] = this.messages.get(seq) ?? [];
    assert.ok(seen[0] >= state && seen[1] >= revision, `${this.#name}: message ${seq} became older`);
    this.messages.set(seq, seen);
  }
}

const seenIn = ({ state = 0, revision = 0, payload }: Message): Seen => [
  state,
  revision,
  Buffer.from(payload).toString(),
];

describe('sends, recalls and edits on two instances, one of them killed', () => {
  let stable: TestService;
  let killed: ServiceProcess;
  let port = '0';
  const spawn = () => spawnService({ DATABASE_URL: stable.databaseUrl, PORT: port });
  before(async () => {
    stable = await startService();
    killed = await spawn();
    port = new URL(killed.url).port;
  });
  after(async () => {
    await killed.end('SIGKILL');
    await stable.stop();
  });
  const clientOf = (url: string) => createClient(MessageService, createGrpcTransport({ baseUrl: url }));

  test('every reader ends with the state of the history and sees each change once and in order, over kills and reconnects', async (context) => {
    const random = randomOf(seedOf(context));
    const pick = (count: number) => Math.floor(random() * count);
    const urls = [stable.url, killed.url];
    const deadline = Date.now() + patienceMs;
    /** Repeats a call, on any instance, until it is answered. */
    const insist = async <T>(call: (client: ReturnType<typeof clientOf>) => Promise<T>): Promise<T> => {
      for (;;)
        try {
          return await call(clientOf(urls[pick(2)] ?? stable.url));
        } catch (error) {
          assert.ok(Date.now() < deadline, String(error));
          await delay(10);
        }
    };
    const heads = new Map<string, { lastSeq: number; lastChange: number }>();
    const isAtEnd = (view: View, channelId: string) => {
      const head = heads.get(channelId);
      return head !== undefined && view.lastSeq >= head.lastSeq && view.lastChange >= head.lastChange;
    };
    let reconnects = 0;

    /** Reads over gRPC, hangs up now and then, and resumes. */
    const readStream = async (url: string, channelId: string) => {
      const view = new View(`gRPC ${url} ${channelId}`);
      while (!isAtEnd(view, channelId)) {
        const stop = new AbortController();
        let left = 5 + pick(30);
        const channel = {
          channelType,
          channelId,
          afterSeq: BigInt(view.lastSeq),
          afterChange: BigInt(view.lastChange),
        };
        try {
          for await (const { frame } of clientOf(url).subscribe({ channels: [channel] }, { signal: stop.signal })) {
            if (frame.case === 'message') view.onMessage(Number(frame.value.messageSeq), seenIn(frame.value));
            const changed = frame.case === 'changed' ? frame.value.message : undefined;
            if (frame.case === 'changed' && changed !== undefined)
              view.onChange(Number(frame.value.changeNo), Number(changed.messageSeq), seenIn(changed));
            if (isAtEnd(view, channelId) || (frame.case !== 'caughtUp' && --left === 0)) break;
          }
        } catch (error) {
          if (error instanceof assert.AssertionError) throw error;
          assert.ok(Date.now() < deadline, String(error));
          await delay(10);
        }
        stop.abort();
        reconnects++;
      }
      return view;
    };

    /** Reads Server-Sent Events and resumes by the last id, as EventSource does. */
    const readEvents = async (url: string, channelId: string) => {
      const view = new View(`events ${url} ${channelId}`);
      let lastId = '0.0';
      while (!isAtEnd(view, channelId)) {
        try {
          const path = `/v1/channels/2/${channelId}/events`;
          const events = await openEvents(url + path, { 'last-event-id': lastId });
          for (let left = 5 + pick(30); left > 0 && !isAtEnd(view, channelId); left--) {
            const { id, event, data } = await events.next();
            const message = event === 'changed' ? data.message : data;
            const seen = [
              message.state ?? 0,
              message.revision ?? 0,
              Buffer.from(message.payload ?? '', 'base64').toString(),
            ] as const;
            if (event === 'changed') view.onChange(data.change_no, message.message_seq, seen);
            else if (event === 'message') view.onMessage(message.message_seq, seen);
            lastId = id ?? lastId;
            assert.equal(lastId, `${view.lastSeq}.${view.lastChange}`);
          }
          events.close();
        } catch (error) {
          if (error instanceof assert.AssertionError) throw error;
          assert.ok(Date.now() < deadline, String(error));
          await delay(10);
        }
        reconnects++;
      }
      return view;
    };

    const readers = channelIds.flatMap((channelId) =>
      urls.flatMap((url) => [
        readStream(url, channelId).then((view) => ({ channelId, view })),
        readEvents(url, channelId).then((view) => ({ channelId, view })),
      ]),
    );
    // A reader that fails ends the test after the writers.
    for (const reader of readers) reader.catch(() => {});

    let sent = 0;
    let done = 0;
    const counts = { edited: 0, recalled: 0 };
    const half = Promise.withResolvers<void>();
    const write = async () => {
      for (let step = 0; step < steps; step++) {
        const channelId = channelIds[pick(channelIds.length)] ?? 'c0';
        const seqs = Array.from({ length: 1 + pick(3) }, () => BigInt(1 + pick(sent / channelIds.length + 3)));
        const what = random();
        if (what < 0.4) {
          const messages = seqs.map(() => ({
            channelType,
            channelId,
            fromUid: 'u',
            clientMsgNo: `k${sent++}`,
            payload: Buffer.from(`m${sent}`),
          }));
          await insist((client) => client.sendBatch({ messages }));
        } else if (what < 0.7) {
          const answer = await insist((client) => client.recallMessages({ channelType, channelId, messageSeqs: seqs }));
          counts.recalled += answer.recalledCount;
        } else {
          const [messageSeq = 1n] = seqs;
          const { messages } = await insist((client) =>
            client.getMessages({ channelType, channelId, messageSeqs: [messageSeq] }),
          );
          if (messages[0]?.state === undefined || messages[0].state === 1)
            if (messages.length === 1)
              await insist(async (client) => {
                const payload = Buffer.from(`edit ${step} ${pick(1e6)}`);
                // Another writer may recall the message meanwhile.
                await client.editMessage({ channelType, channelId, messageSeq, payload }).catch((error: Error) => {
                  if (!/was recalled/.test(error.message)) throw error;
                });
                counts.edited++;
              });
        }
        if (++done === (writers * steps) / 2) half.resolve();
      }
    };
    const writing = Promise.all(Array.from({ length: writers }, write));
    await half.promise;
    await killed.end('SIGKILL');
    killed = await spawn();
    await writing;

    const histories = new Map<string, Message[]>();
    for (const channelId of channelIds) {
      const messages: Message[] = [];
      for (;;) {
        const page = await clientOf(stable.url).listMessages({
          channelType,
          channelId,
          afterSeq: BigInt(messages.length),
        });
        messages.push(...page.messages);
        if (page.messages.length === 0) break;
      }
      histories.set(channelId, messages);
      const lastChange = messages.reduce((sum, each) => sum + (each.revision ?? 0) + (each.state === 2 ? 1 : 0), 0);
      heads.set(channelId, { lastSeq: messages.length, lastChange });
    }
    // Idle readers look at the ends when something comes.
    for (const channelId of channelIds)
      await insist((client) =>
        client.send({
          message: { channelType, channelId, fromUid: 'u', clientMsgNo: 'end', payload: Buffer.from('end') },
        }),
      );
    for (const { channelId, view } of await Promise.all(readers)) {
      const history = histories.get(channelId) ?? [];
      for (const message of history)
        assert.deepEqual(view.messages.get(Number(message.messageSeq)), seenIn(message), `${channelId}`);
    }
    const changes = [...heads.values()].reduce((sum, each) => sum + each.lastChange, 0);
    context.diagnostic(`${sent} messages, ${changes} changes, ${reconnects} streams`);
    assert.ok(changes > 20 && reconnects > 20 && counts.edited > 5 && counts.recalled > 5, JSON.stringify(counts));
    await assertSound(stable.databaseUrl);
  });
});
