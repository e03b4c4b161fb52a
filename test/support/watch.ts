import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';
import { createGrpcTransport } from '@connectrpc/connect-node';
import pg from 'pg';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { createSendbatch } from '../../src/client/index.ts';
import { jsonCaller } from './json.ts';
import { type Answer, openClients, type ProtocolClient, said } from './protocols.ts';
import type { TestService } from './service.ts';

/** Longer than a busy machine stalls. */
export const patienceMs = 60_000;

/** Polls until a condition holds; fails with the message of the last attempt. */
export async function until(what: string, poll: () => Promise<boolean> | boolean): Promise<void> {
  const end = performance.now() + patienceMs;
  while (!(await poll())) {
    assert.ok(performance.now() < end, `not within ${patienceMs} ms: ${what}`);
    await delay(20);
  }
}

/**
 * Waits until a session waits for a lock that this connection holds. Other tests share the server,
 * with locks of their own.
 */
export async function untilOneWaitsFor(holder: pg.Client): Promise<void> {
  await until('a session waits for the lock', async () => {
    const { rows } = await holder.query(
      'select from pg_stat_activity where pg_backend_pid() = any(pg_blocking_pids(pid))',
    );
    return rows.length > 0;
  });
}

/** A message to a group. */
export const draftTo = (channelId: string, clientMsgNo: string) => ({
  channelId,
  channelType: ChannelType.GROUP,
  fromUid: 'u1',
  clientMsgNo,
  payload: Buffer.from(clientMsgNo),
});

/** The client of a service by its name. */
export function clientOf(service: TestService, name: string): ProtocolClient {
  const sender = openClients(service.url).find((each) => each.name === name);
  assert.ok(sender);
  return sender;
}

/**
 * Asserts the answers that a gRPC and a JSON caller must get when the store cannot serve them now.
 */
export function assertBusy(answer: Answer, reasons: readonly string[] = ['STORE_BUSY']): void {
  assert.ok('refused' in answer, JSON.stringify(answer));
  const { code, reason = '', retryMs, message } = answer.refused;
  assert.equal(code, 'Unavailable', `${reason}: ${message}`);
  assert.ok(reasons.includes(reason), `${reason}: ${message}`);
  assert.equal(retryMs, 1000);
  assert.doesNotMatch(message, /ECONN|socket|PGSQL|relation|statement/, 'no internals leak');
}

/** Runs work and measures it in milliseconds. */
export async function timed<T>(work: Promise<T>): Promise<{ result: T; ms: number }> {
  const since = performance.now();
  return { result: await work, ms: performance.now() - since };
}

/** Observes the background work of a service. */
export interface Watch {
  /** Fails unless the follower still reads, the loops still run, and the listener still listens. */
  assertWell(): Promise<void>;
  stop(): void;
}

const channelId = 'watched';
const listener = `select from pg_stat_activity where application_name = 'sendbatch listener' and datname = current_database()`;

/**
 * Follows a channel through `service` as a client would; `other` is another instance on the same
 * database, reached at `databaseUrl` without faults.
 */
export function watch(service: TestService, other: TestService, databaseUrl: string): Watch {
  const abort = new AbortController();
  const heard = new Set<string>();
  const client = createSendbatch({
    transport: createGrpcTransport({ baseUrl: service.url }),
    retry: { attempts: 1000, longestPauseMs: 200 },
  });
  const following = (async () => {
    const request = { channels: [{ channelType: ChannelType.GROUP, channelId }] };
    for await (const { clientMsgNo } of client.tail(request, { signal: abort.signal })) heard.add(clientMsgNo);
  })();
  following.catch((error) => heard.add(String(error)));
  let round = 0;
  return {
    async assertWell() {
      round++;
      const sender = clientOf(service, 'Connect, binary');
      const elsewhere = clientOf(other, 'Connect, binary');
      for (const [by, key] of [
        [sender, `here-${round}`],
        [elsewhere, `there-${round}`],
      ] as const) {
        // Retries with the same key, as a client does: finds what was stored before.
        await until(`${key} is taken`, async () =>
          /^(ok|again)$/.test(said(await by.send({ messages: [draftTo(channelId, key)] }))),
        );
        await until(`the reader has ${key}: ${[...heard].join(' ')}`, () => heard.has(key));
      }
      const keyword = `word${round}`;
      const rule = { action: 'RULE_ACTION_REFUSE', keywords: [keyword] };
      assert.equal((await jsonCaller(other.url).post('/v1/moderation/rules', rule)).status, 200);
      const messages = [{ ...draftTo('moderated', keyword), payload: Buffer.from(keyword) }];
      await until('a rule of the other instance holds here', async () =>
        said(await sender.send({ messages, validateOnly: true })).includes('CONTENT_REFUSED'),
      );
      const client = new pg.Client({ connectionString: databaseUrl });
      await client.connect();
      try {
        await client.query(`insert into sendbatch.live_message (sent_at, body) values (0, '{}')`);
        await until('the sweepers sweep', async () => {
          const { rows } = await client.query('select from sendbatch.live_message where sent_at = 0');
          return rows.length === 0;
        });
        await until('both instances listen', async () => (await client.query(listener)).rows.length === 2);
      } finally {
        await client.end();
      }
    },
    stop: () => abort.abort(),
  };
}
