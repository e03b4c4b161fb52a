import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { SignJWT } from 'jose';
import pg from 'pg';
import { createKeys } from '../../src/auth/api-keys.ts';
import { openStore } from '../support/database.ts';
import { jsonCaller } from '../support/json.ts';
import { said } from '../support/protocols.ts';
import { startReceiver } from '../support/receiver.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound } from '../support/verify.ts';
import { clientOf, draftTo, until, untilOneWaitsFor, type Watch, watch } from '../support/watch.ts';

const hourMs = 3600_000;
const secret = new TextEncoder().encode('a secret of at least thirty-two bytes');
let offsetMs = 0;

/** The wall clock of this process jumps; its monotonic clock and PostgreSQL's clock do not. */
const RealDate = Date;
class JumpingDate extends RealDate {
  constructor(...given: unknown[]) {
    super(...((given.length === 0 ? [JumpingDate.now()] : given) as []));
  }
  static override now(): number {
    return RealDate.now() + offsetMs;
  }
}

describe('a wall clock that jumps', () => {
  let service: TestService;
  let other: TestService;
  let watching: Watch;
  before(async () => {
    globalThis.Date = JumpingDate as DateConstructor;
    other = await startService({ sweepIntervalMs: 200 });
    service = await startService({
      databaseUrl: other.databaseUrl,
      sweepIntervalMs: 200,
      retention: [{ channelType: 2, days: 1 }],
      rates: { caller: [], sender: [{ points: 3, seconds: 2 }], channel: [], store: 'memory' },
    });
    watching = watch(service, other, other.databaseUrl);
    await watching.assertWell();
  });
  after(async () => {
    offsetMs = 0;
    watching.stop();
    await service.stop();
    await other.stop();
    globalThis.Date = RealDate;
  });

  for (const [what, jumpMs] of [
    ['ahead by six hours', 6 * hourMs],
    ['ahead by three days', 72 * hourMs],
    ['back by six hours', -6 * hourMs],
  ] as const) {
    test(`after the clock jumps ${what}, sends keep their order, quotas refill on time, loops run, and nothing is removed early`, async () => {
      offsetMs = 0;
      const grpc = clientOf(service, 'gRPC, connect-node');
      const json = clientOf(service, 'JSON route');
      const channel = `jump ${what}`;
      const sender = (key: string, more = {}) => ({ ...draftTo(channel, key), fromUid: `sender ${what}`, ...more });
      // Both in one call, so that a slow machine cannot put time between them.
      const messages = [sender('1', { expire: 3600 }), ...['2', '3', '4'].map((key) => sender(key))];
      assert.equal(said(await json.send({ messages })), 'ok ok ok RATE_LIMITED', 'the quota is had');
      // A call in flight during the jump.
      const holder = new pg.Client({ connectionString: other.databaseUrl });
      await holder.connect();
      await holder.query('begin');
      await holder.query('select from sendbatch.channel_head for update');
      const underWay = grpc.send({ messages: [draftTo(channel, 'under way')] }, { timeoutMs: 30_000 });
      await untilOneWaitsFor(holder);

      offsetMs = jumpMs;
      await holder.query('rollback');
      await holder.end();
      assert.equal(said(await underWay), 'ok');
      await until(
        'the quota is there again',
        async () => said(await grpc.send({ messages: [sender('4')] })) !== 'RATE_LIMITED',
      );
      // A retry finds what was stored under the other clock.
      assert.equal(said(await json.send({ messages: [draftTo(channel, 'under way')] })), 'again');
      // One sweep with the clock as it is now.
      await watching.assertWell();

      offsetMs = 0;
      const { body } = await jsonCaller(service.url).get(`/v1/channels/2/${encodeURIComponent(channel)}/messages`);
      assert.deepEqual(
        body.messages.map((each: { client_msg_no: string }) => each.client_msg_no),
        ['1', '2', '3', 'under way', '4'],
      );
      await watching.assertWell();
      await assertSound(other.databaseUrl);
    });
  }
});

describe('an instance whose clock is one hour off', () => {
  let service: TestService;
  let keyed: TestService;
  before(async () => {
    globalThis.Date = JumpingDate as DateConstructor;
    offsetMs = 0;
    const webhooks = { settings: undefined, allowPrivate: true, timeoutMs: 60_000, retrySchedule: {} };
    const rates = { caller: [], sender: [{ points: 20, seconds: 3600 }], channel: [], store: 'postgres' as const };
    service = await startService({ webhooks, rates });
    const tokens = {
      key: { secrets: { current: [secret] } },
      algorithms: ['HS256'],
      issuer: 'i',
      audience: 'a',
      scopes: ['read'] as const,
    };
    const identity = { tokens, certificateScopes: undefined };
    keyed = await startService({ databaseUrl: service.databaseUrl, requiresCredential: true, open: false, identity });
  });
  after(async () => {
    offsetMs = 0;
    await keyed.stop();
    await service.stop();
    globalThis.Date = RealDate;
  });

  for (const jumpMs of [hourMs, -hourMs]) {
    const what = jumpMs > 0 ? 'ahead' : 'behind';
    test(`an instance whose clock is one hour ${what} sends a scheduled batch on time`, async () => {
      offsetMs = 0;
      const json = jsonCaller(service.url);
      const message = {
        channel_id: `hour ${what}`,
        channel_type: 2,
        from_uid: 'u1',
        payload: Buffer.from('x').toString('base64'),
      };
      const submit = async (more: object) =>
        (await json.post('/v1/batches', { messages: [message], ...more })).body.batch;
      const get = async (id: string) => (await json.get(`/v1/batches/${id}`)).body;
      const soon = new RealDate(RealDate.now() + hourMs / 2).toISOString();
      const before = await submit({ send_at: soon });
      offsetMs = jumpMs;
      const during = await submit({ send_at: soon });
      // The worker has served this caller.
      const now = await submit({});
      await until('what is due now is sent', async () => (await get(now.batch_id)).ended_at !== undefined);
      for (const { batch_id: id } of [before, during]) {
        const batch = await get(id);
        assert.deepEqual([batch.started_at, batch.ended_at, batch.next_at], [undefined, undefined, soon]);
      }
      const client = new pg.Client({ connectionString: service.databaseUrl });
      await client.connect();
      await client.query(`update sendbatch.batch_chunk set due_at = due_at - ${hourMs}`);
      await client.query(`update sendbatch.batch set due_at = due_at - ${hourMs} where due_at is not null`);
      await client.end();
      await submit({});
      for (const { batch_id: id } of [before, during])
        await until('it is sent when its time has come', async () => (await get(id)).ended_at !== undefined);
    });

    test(`an instance whose clock is one hour ${what} neither resets a quota counted in the database nor extends it`, async () => {
      offsetMs = 0;
      const sender = clientOf(service, 'JSON route');
      const sendOne = (key: string) =>
        sender.send({ messages: [{ ...draftTo('rated', `${what} ${key}`), fromUid: `rated ${what}` }] });
      const messages = Array.from({ length: 20 }, (_, index) => ({
        ...draftTo('rated', `${what} ${index}`),
        fromUid: `rated ${what}`,
      }));
      assert.ok(!said(await sender.send({ messages })).includes('RATE_LIMITED'));
      offsetMs = jumpMs;
      assert.equal(said(await sendOne('one too many')), 'RATE_LIMITED');
      const client = new pg.Client({ connectionString: service.databaseUrl });
      await client.connect();
      await client.query(`update sendbatch.rate set expire = expire - ${hourMs} where key like '%rated ${what}'`);
      await client.end();
      assert.equal(said(await sendOne('in the next window')), 'ok');
    });

    test(`an instance whose clock is one hour ${what} signs webhooks and expires keys and tokens by the database’s time`, async () => {
      offsetMs = 0;
      const receiver = await startReceiver();
      const json = jsonCaller(service.url);
      await json.post('/v1/webhooks', { name: what, url: receiver.url });
      const db = openStore(service.databaseUrl);
      const keys = createKeys(db, () => RealDate.now());
      const scopes = ['read'] as const;
      const lasting = await keys.create({ name: 'k', scopes, expiresAt: RealDate.now() + hourMs / 2 });
      const over = await keys.create({ name: 'k', scopes, expiresAt: RealDate.now() - hourMs / 2 });
      await db.destroy();
      offsetMs = jumpMs;
      await json.post(`/v1/webhooks/${what}:test`, {});
      const signedAt = Number(receiver.received[0]?.headers['webhook-timestamp']) * 1000;
      assert.ok(Math.abs(signedAt - RealDate.now()) < 5 * 60_000, `${signedAt}`);
      await receiver.close();
      const statusOf = async (key: string) =>
        (await jsonCaller(keyed.url, { authorization: `Bearer ${key}` }).get('/v1/channels/2/none/messages')).status;
      assert.deepEqual([await statusOf(lasting.key), await statusOf(over.key)], [200, 401]);
      const token = async (exp: number) =>
        await new SignJWT({ sub: 'u1', iss: 'i', aud: 'a', exp: Math.floor(exp / 1000) })
          .setProtectedHeader({ alg: 'HS256' })
          .sign(secret);
      const statusOfToken = async (exp: number) =>
        (await jsonCaller(keyed.url, { authorization: `Bearer ${await token(exp)}` }).get('/v1/server-info')).status;
      const lastsFor = [hourMs / 2, -hourMs / 2].map((ms) => statusOfToken(RealDate.now() + ms));
      assert.deepEqual(await Promise.all(lastsFor), [200, 401]);
    });
  }
});
