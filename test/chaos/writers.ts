// Writers of a chaos run: one per protocol. Each sends one batch after the other and retries it
// under the same keys at any instance until every message is acknowledged.
import { setTimeout as delay } from 'node:timers/promises';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { SendMode } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { BatchState, ChannelType, createSendbatch, reasonOf, type Sendbatch } from '../../src/client/index.ts';
import { type Answer, openClients, type ProtocolClient, type Result } from '../support/protocols.ts';
import type { Acknowledged } from './accounting.ts';
import type { Dice } from './faults.ts';
import type { Instance } from './world.ts';

/** A batch that is not acknowledged by then is a violation. */
const patienceMs = 120_000;
/** An attempt that has no answer by then is given up; it may still succeed. */
const attemptMs = 8000;
/** Reasons that a caller must retry. A lost connection has no reason. */
const retryable = new Set<string | undefined>([undefined, 'STORE_BUSY', 'OVERLOADED', 'DEADLINE']);
/** Codes of refusals without a reason that a lost connection or a stopping instance may cause. */
const lostCodes = new Set(['Unavailable', 'Canceled', 'DeadlineExceeded', 'Unknown', 'Internal', 'Aborted']);

export const sharedChannels = ['shared-0', 'shared-1', 'shared-2'] as const;
export const commandReceiver = 'receiver';
/** Every message is sent as this user, by whatever writer. */
const fromUid = 'chaos';

/** What writers record. */
export class Ledger {
  readonly acknowledged: Acknowledged[] = [];
  readonly attempted = new Set<string>();
  readonly submitted: string[] = [];
  readonly abandoned: string[][] = [];
  readonly observed: string[] = [];
  /** Batches that took long, with their times on the monotonic clock. */
  readonly waits: {
    readonly writer: string;
    readonly attempts: number;
    readonly from: number;
    readonly to: number;
  }[] = [];
  /** Failed attempts by code and reason. */
  readonly failures = new Map<string, number>();
  attempts = 0;
  failedAttempts = 0;
  retried = 0;

  fail(why: string): void {
    this.failedAttempts++;
    this.failures.set(why, (this.failures.get(why) ?? 0) + 1);
  }

  /** Takes each acknowledgement of a message outside of commands, as a line of NDJSON. */
  onLine: (line: string) => void = () => {};
}

interface Draft {
  readonly channelId: string;
  readonly channelType: ChannelType;
  readonly fromUid: string;
  readonly clientMsgNo: string;
  readonly payload: Uint8Array<ArrayBuffer>;
  readonly header?: { readonly syncOnce: number };
  readonly subscribers?: string[];
}

interface Order {
  readonly messages: readonly Draft[];
  readonly isAtomic: boolean;
  readonly expected?: { readonly channelId: string; readonly lastSeq: number };
}

/** Sends one order once. */
type Attempt = (instance: number, order: Order) => Promise<Answer>;

export interface Writer {
  readonly name: string;
  run(isOver: () => boolean): Promise<void>;
  close(): void;
}

interface WriterOptions {
  readonly ledger: Ledger;
  readonly diceOf: (name: string) => Dice;
  /** Milliseconds between two batches of a writer, at most. */
  readonly pauseMs: number;
}

export function createWriters(instances: readonly Instance[], options: WriterOptions): Writer[] {
  const clients = instances.map(({ url }) => openClients(url));
  const protocols = clients[0]?.map(({ name }) => name) ?? [];
  const grpc = instances.map(({ url }) =>
    createSendbatch({
      transport: createGrpcTransport({ baseUrl: url }),
      retry: { attempts: 2, firstPauseMs: 50, longestPauseMs: 200 },
    }),
  );
  const writers = protocols.map((name, index): Writer => {
    const own = clients.map((each) => each[index]);
    return createWriter(name, attemptBy(own), name !== 'JSON route', options);
  });
  const library: Attempt = async (instance, { messages, isAtomic }) => {
    const results = await grpc[instance]?.send(messages, { atomic: isAtomic, timeoutMs: attemptMs });
    return { results: (results ?? []).map(toResult) };
  };
  return [
    ...writers,
    createWriter('the client', library, false, options),
    createSubmitter(grpc, options),
    {
      name: 'connections',
      run: async () => {},
      close() {
        for (const client of clients.flat()) client.close();
      },
    },
  ];
}

function toResult(result: Awaited<ReturnType<Sendbatch['send']>>[number]): Result {
  const { messageId, messageSeq, clientMsgNo, duplicate, error } = result;
  return {
    messageId: Number(messageId),
    messageSeq: Number(messageSeq),
    clientMsgNo,
    duplicate: duplicate === true,
    refused:
      error === undefined
        ? undefined
        : {
            code: String(error.code),
            reason: error.reason,
            metadata: error.metadata,
            message: error.message,
            fields: [],
            retryMs: 1,
          },
  };
}

const attemptBy =
  (clients: readonly (ProtocolClient | undefined)[]): Attempt =>
  async (instance, { messages, isAtomic, expected }) => {
    const request = {
      messages: messages.map((message) => ({ ...message })),
      mode: isAtomic ? SendMode.ATOMIC : SendMode.BEST_EFFORT,
      ...(expected && {
        expectedLastSeqs: [
          { channelId: expected.channelId, channelType: ChannelType.GROUP, lastSeq: BigInt(expected.lastSeq) },
        ],
      }),
    };
    const answer = await clients[instance]?.send(request, { timeoutMs: attemptMs });
    if (answer === undefined) throw new Error('no client');
    return answer;
  };

/** Gives an attempt up in the end: a suspended instance never answers. */
async function withinTime<T>(work: Promise<T>): Promise<T> {
  const given = new AbortController();
  try {
    return await Promise.race([
      work,
      delay(attemptMs + 1000, undefined, { signal: given.signal }).then(() => {
        throw new Error('no answer');
      }),
    ]);
  } finally {
    given.abort();
    work.catch(() => {});
  }
}

function createWriter(
  name: string,
  attempt: Attempt,
  hasConditions: boolean,
  { ledger, diceOf, pauseMs }: WriterOptions,
): Writer {
  const dice = diceOf(`writer ${name}`);
  const own = `of-${name.replaceAll(/[^a-zA-Z]+/g, '-')}`;
  let ownHead = 0;
  let number = 0;
  const instances = 3;

  const draft = (channelId: string, isCommand = false): Draft => {
    const clientMsgNo = `${name} ${++number}`;
    ledger.attempted.add(clientMsgNo);
    return {
      channelId: isCommand ? '' : channelId,
      channelType: isCommand ? ChannelType.UNSPECIFIED : ChannelType.GROUP,
      fromUid,
      clientMsgNo,
      payload: Buffer.from(clientMsgNo),
      ...(isCommand && { header: { syncOnce: 1 }, subscribers: [commandReceiver] }),
    };
  };
  const batch = (most: number, channels: readonly string[]) =>
    Array.from({ length: 1 + dice.pick(most) }, () => draft(channels[dice.pick(channels.length)] ?? own));

  /**
   * One attempt: the results that are final, and what must be sent again. Undefined: nothing is
   * known.
   */
  const once = async (order: Order): Promise<Answer | undefined> => {
    ledger.attempts++;
    try {
      return await withinTime(attempt(dice.pick(instances), order));
    } catch (error) {
      const reason = reasonOf(error);
      if (!retryable.has(reason)) throw error;
      return undefined;
    }
  };

  const acknowledge = (order: Order, message: Draft, result: Result, isFirst: boolean) => {
    const { messageSeq, messageId } = result;
    const { channelId, clientMsgNo: key, header } = message;
    const isConditional = order.expected?.channelId === channelId;
    ledger.acknowledged.push({
      writer: name,
      channelId,
      key,
      messageSeq,
      messageId,
      isFirst: isFirst && header === undefined,
      ...(isConditional && order.expected && { expectedLastSeq: order.expected.lastSeq }),
    });
    if (header === undefined)
      ledger.onLine(
        `${JSON.stringify({ channel_type: message.channelType, channel_id: channelId, message_seq: messageSeq, message_id: messageId, from_uid: fromUid, client_msg_no: key })}\n`,
      );
  };

  /** Sends until every message is acknowledged. */
  async function deliver(order: Order, isFirst = true): Promise<void> {
    const from = performance.now();
    let left = order.messages;
    let attempts = 0;
    const results = new Map<string, Result>();
    for (; left.length > 0; attempts++) {
      if (attempts > 0) {
        ledger.retried++;
        await delay(dice.ms(20, 200));
      }
      if (performance.now() - from > patienceMs) {
        ledger.observed.push(`${name}: ${left[0]?.clientMsgNo} not acknowledged within ${patienceMs} ms`);
        return;
      }
      const answer = await once({ ...order, messages: left });
      if (answer === undefined || 'refused' in answer) {
        const refused = answer?.refused;
        ledger.fail(refused === undefined ? 'no answer' : `${refused.code} ${refused.reason ?? ''}`.trim());
        if (
          refused !== undefined &&
          (!retryable.has(refused.reason) || !(refused.reason !== undefined || lostCodes.has(refused.code)))
        ) {
          ledger.observed.push(`${name}: ${refused.code} ${refused.reason}: ${refused.message}`);
          return;
        }
        continue;
      }
      const again: Draft[] = [];
      for (const [index, message] of left.entries()) {
        const result = answer.results[index];
        if (result?.refused === undefined && result !== undefined) results.set(message.clientMsgNo, result);
        else if (result === undefined || retryable.has(result.refused?.reason)) again.push(message);
        else
          ledger.observed.push(`${name}: ${message.clientMsgNo}: ${result.refused?.reason} ${result.refused?.message}`);
      }
      left = again;
    }
    for (const message of order.messages) {
      const result = results.get(message.clientMsgNo);
      if (result === undefined) continue;
      acknowledge(order, message, result, isFirst);
      if (message.channelId === own) ownHead = Math.max(ownHead, result.messageSeq);
    }
    ledger.waits.push({ writer: name, attempts, from, to: performance.now() });
  }

  async function round(): Promise<void> {
    const chance = dice.pick(20);
    if (chance < 2) return await deliver({ messages: [draft('', true)], isAtomic: false });
    if (chance < 5) return await deliver({ messages: batch(6, [...sharedChannels, own]), isAtomic: true });
    if (chance < 7 && hasConditions)
      return await deliver({
        messages: batch(3, [own]),
        isAtomic: true,
        expected: { channelId: own, lastSeq: ownHead },
      });
    if (chance < 8) {
      // Sent once: its outcome may stay unknown.
      const messages = batch(6, sharedChannels);
      ledger.abandoned.push(messages.map((message) => message.clientMsgNo));
      await once({ messages, isAtomic: true });
      return;
    }
    const order = { messages: batch(8, [...sharedChannels, own]), isAtomic: false };
    await deliver(order);
    // A retry of what was acknowledged returns the same numbers.
    if (chance === 19) await deliver(order, false);
  }

  return {
    name,
    async run(isOver) {
      while (!isOver()) {
        await round().catch((error: unknown) => ledger.observed.push(`${name}: ${String(error)}`));
        await delay(dice.ms(pauseMs / 4, pauseMs));
      }
    },
    close() {},
  };
}

/** Submits batches that the service sends in the background, and waits for their end. */
function createSubmitter(clients: readonly Sendbatch[], { ledger, diceOf, pauseMs }: WriterOptions): Writer {
  const dice = diceOf('submitter');
  let number = 0;
  const waiting = new Map<string, readonly string[]>();
  const at = <T>(work: (client: Sendbatch) => Promise<T>): Promise<T | undefined> => {
    const client = clients[dice.pick(clients.length)];
    return client === undefined ? Promise.resolve(undefined) : withinTime(work(client)).catch(() => undefined);
  };
  const submit = async () => {
    const requestId = `submitted ${++number}`;
    const messages = Array.from({ length: 1 + dice.pick(20) }, (_, index) => ({
      channelId: 'submitted',
      channelType: ChannelType.GROUP,
      fromUid,
      clientMsgNo: `${requestId} ${index}`,
      payload: Buffer.from(requestId),
    }));
    const keys = messages.map((message) => message.clientMsgNo);
    for (const key of keys) ledger.attempted.add(key);
    for (const end = performance.now() + patienceMs; ; ) {
      ledger.attempts++;
      const submitted = await at((client) => client.submit(messages, { requestId, timeoutMs: attemptMs }));
      if (submitted !== undefined) return void waiting.set(submitted.batch.batchId, keys);
      ledger.fail('submit');
      if (performance.now() > end) return void ledger.observed.push(`${requestId} not accepted`);
      await delay(dice.ms(20, 200));
    }
  };
  const settle = async () => {
    for (const [batchId, keys] of waiting) {
      const answer = await at((client) => client.batches.getBatch({ batchId }, { timeoutMs: attemptMs }));
      const { batch } = answer ?? {};
      if (batch?.endedAt === undefined) continue;
      waiting.delete(batchId);
      if (batch.state !== BatchState.COMPLETED || batch.refusedCount > 0)
        ledger.observed.push(`batch ${batchId} ended in state ${batch.state}, ${batch.refusedCount} refused`);
      else ledger.submitted.push(...keys);
    }
  };
  return {
    name: 'submitter',
    async run(isOver) {
      while (!isOver()) {
        await submit();
        await settle();
        await delay(dice.ms(pauseMs, 4 * pauseMs));
      }
      for (const end = performance.now() + patienceMs; waiting.size > 0 && performance.now() < end; ) {
        await settle();
        await delay(100);
      }
      for (const batchId of waiting.keys()) ledger.observed.push(`batch ${batchId} has not ended`);
    },
    close() {},
  };
}
