import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';
import { createGrpcTransport } from '@connectrpc/connect-node';
import pg from 'pg';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { createSendbatch } from '../../src/client/index.ts';
import { jsonCaller } from './json.ts';
import { type Answer, openClients, type ProtocolClient, said } from './protocols.ts';
import type { TestService } from './service.ts';

/** Longer than a busy machine stands still. */
export const patienceMs = 60_000;

/** Looks again and again until something holds; fails with the words of the last look. */
export async function until(what: string, look: () => Promise<boolean> | boolean): Promise<void> {
  const end = performance.now() + patienceMs;
  while (!(await look())) {
    assert.ok(performance.now() < end, `not within ${patienceMs} ms: ${what}`);
    await delay(20);
  }
}

/** Until somebody waits for a lock that this connection holds: others have the same server, and locks of their own. */
export async function untilOneWaitsFor(holder: pg.Client): Promise<void> {
  await until('somebody waits for the lock', async () => {
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

/** A way into a service by its name. */
export function clientOf(service: TestService, name: string): ProtocolClient {
  const sender = openClients(service.url).find((each) => each.name === name);
  assert.ok(sender);
  return sender;
}

/** What both a gRPC and a JSON caller must hear when the store cannot do it now. */
export function assertBusy(answer: Answer, reasons: readonly string[] = ['STORE_BUSY']): void {
  assert.ok('refused' in answer, JSON.stringify(answer));
  const { code, reason = '', retryMs, message } = answer.refused;
  assert.equal(code, 'Unavailable', `${reason}: ${message}`);
  assert.ok(reasons.includes(reason), `${reason}: ${message}`);
  assert.equal(retryMs, 1000);
  assert.doesNotMatch(message, /ECONN|socket|PGSQL|relation|statement/, 'no internals leak');
}

/** Work, and how many milliseconds it took. */
export async function timed<T>(work: Promise<T>): Promise<{ result: T; ms: number }> {
  const since = performance.now();
  return { result: await work, ms: performance.now() - since };
}

/** Watches what a service does by itself. */
export interface Watch {
  /** Fails unless its reader still reads, its loops still run, and its listener listens. */
  assertWell(): Promise<void>;
  stop(): void;
}

const channelId = 'watched';
const listener = `select from pg_stat_activity where application_name = 'sendbatch listener' and datname = current_database()`;

/** Follows a channel through `service`, as a user's client does; `other` is another instance on the same database, at `databaseUrl` past every fault. */
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
        // A retry with the same key, as a client makes: what was stored before is found.
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
