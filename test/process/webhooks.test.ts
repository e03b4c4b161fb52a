import assert from 'node:assert/strict';
import type { ServerResponse } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { randomOf } from '../../bench/workload.ts';
import { createDatabase } from '../support/database.ts';
import { jsonCaller } from '../support/json.ts';
import { runToEnd, type ServiceProcess, spawnService } from '../support/process.ts';
import { messagesOf, ok, type Receiver, startReceiver, status } from '../support/receiver.ts';
import { seedOf } from '../support/seed.ts';
import { startService, type TestService } from '../support/service.ts';
import { assertSound, readAll } from '../support/verify.ts';
import { patienceMs } from '../support/watch.ts';

const channels = 10;
const clients = 6;
const batchesOfEach = 40;
const postsBeforeKill = 40;
const timeoutMs = 400;

describe('a receiver that fails, hangs and answers slowly, and an instance that is killed', () => {
  /** Runs throughout. */
  let first: TestService;
  /** Is killed. */
  let second: ServiceProcess;
  let odd: Receiver;
  let steady: Receiver;

  before(async () => {
    const retrySchedule = { firstMs: 20, maxMs: 100, maxAttempts: 8, breakMs: 20, maxBreakMs: 50 };
    first = await startService({ webhooks: { settings: undefined, allowPrivate: true, timeoutMs, retrySchedule } });
    second = await spawnService({
      DATABASE_URL: first.databaseUrl,
      WEBHOOK_ALLOW_PRIVATE: 'on',
      WEBHOOK_TIMEOUT: String(timeoutMs),
    });
    odd = await startReceiver();
    steady = await startReceiver();
  });
  after(async () => {
    await second.end('SIGKILL');
    await first.stop();
    await odd.close();
    await steady.close();
  });

  test('every message reaches a failing receiver in order per channel, past a parked batch and a killed instance', async (context) => {
    const random = randomOf(seedOf(context));
    const call = jsonCaller(first.url);
    for (const [name, { url }] of Object.entries({ odd, steady })) {
      const { status, body } = await call.post('/v1/webhooks', {
        name,
        url,
        format: name === 'odd' ? 1 : 2,
        batch_size: 20,
      });
      assert.equal(status, 200, JSON.stringify(body));
    }

    // The other instance learns of new webhooks within two seconds.
    const probe = [{ from_uid: 'u', channel_id: 'probe', channel_type: 2, payload: 'eA==' }];
    for (const end = performance.now() + patienceMs; odd.received.length === 0; ) {
      assert.ok(performance.now() < end, 'the second instance never heard of the webhook');
      await jsonCaller(second.url).post('/message/sendbatch', probe);
    }
    odd.received.length = 0;

    /**
     * The messages that the receiver has answered with 200, per channel: first arrivals in their
     * order.
     */
    const taken = new Map<string, Set<number>>();
    const take = (response: ServerResponse, received: (typeof odd.received)[number]) => {
      for (const { channel_id: channel, message_seq: seq } of messagesOf(received)) {
        if (channel === 'probe') continue;
        const seqs = taken.get(channel) ?? new Set();
        taken.set(channel, seqs.add(seq));
      }
      ok(response, received);
    };
    const what = { failed: 0, hung: 0, slow: 0, poisoned: 0 };
    let killed: Promise<unknown> | undefined;
    let healed = false;
    const poison = Buffer.from('poison').toString('base64');
    odd.answer = (response, received) => {
      if (odd.received.length >= postsBeforeKill) killed ??= second.end('SIGKILL');
      // At least one of each, then at random.
      const chance = [0, 0.16, 0.3][odd.received.length - 3] ?? random();
      if (healed) take(response, received);
      else if (messagesOf(received).some(({ payload }) => payload === poison)) {
        what.poisoned++;
        status(500)(response, received);
      } else if (chance < 0.15) {
        what.failed++;
        status(503)(response, received);
      } else if (chance < 0.2) what.hung++;
      else if (chance < 0.4) {
        what.slow++;
        setTimeout(() => take(response, received), random() * timeoutMs * 1.2);
      } else take(response, received);
    };

    /**
     * Sends to either instance; unanswered batches are retried with their keys at the one that
     * stays.
     */
    const send = async (messages: object[]) => {
      const bases = [random() < 0.5 ? second.url : first.url, first.url];
      for (const base of bases) {
        // Reads the whole body: the killed instance may be in the middle of an answer.
        const answer = await jsonCaller(base)
          .post('/message/sendbatch', messages)
          .catch(() => undefined);
        if (answer === undefined) continue;
        assert.equal(answer.status, 200, JSON.stringify(answer.body));
        return;
      }
      assert.fail('the instance that stays did not answer');
    };
    await Promise.all(
      Array.from({ length: clients }, async (_, client) => {
        for (let batch = 0; batch < batchesOfEach; batch++) {
          const count = 1 + Math.floor(random() * 8);
          await send(
            Array.from({ length: count }, (_, index) => ({
              from_uid: `client${client}`,
              channel_id: `channel${Math.floor(random() * channels)}`,
              channel_type: 2,
              client_msg_no: `${batch}-${index}`,
              payload: client === 0 && batch === 10 && index === 0 ? poison : 'eA==',
            })),
          );
        }
      }),
    );
    const stored = (await readAll(first.databaseUrl)).filter((row) => row.channel !== 'probe');
    await odd.until('the kill', () => killed !== undefined);
    await killed;
    assert.equal(second.child.signalCode, 'SIGKILL');
    // The killed instance may have postponed deliveries by minutes; a change of the webhook retries
    // them at once.
    for (const [name, { url }] of Object.entries({ odd, steady }))
      await fetch(`${first.url}/v1/webhooks/${name}`, { method: 'PUT', body: JSON.stringify({ url, batch_size: 20 }) });
    const failingOf = async () => (await call.get('/v1/webhooks/odd/deliveries')).body.deliveries;
    const isTaken = ({ channel, seq }: { channel: string; seq: number }) => taken.get(channel)?.has(seq) === true;
    // Everything arrives except what is parked with the poison message.
    const parkedOf = async () => {
      const failing = await failingOf();
      return new Set<string>(
        failing
          .filter((each: { state: number }) => each.state === 2)
          .flatMap(({ ranges }: { ranges: { channel_id: string; first_seq: number; last_seq: number }[] }) =>
            ranges.flatMap((range) =>
              Array.from(
                { length: range.last_seq - range.first_seq + 1 },
                (_, index) => `${range.channel_id} ${range.first_seq + index}`,
              ),
            ),
          ),
      );
    };
    let parked = await parkedOf();
    const missing = () => stored.filter((row) => !isTaken(row) && !parked.has(`${row.channel} ${row.seq}`));
    for (const end = performance.now() + 60_000; missing().length > 0 || parked.size === 0; ) {
      assert.ok(
        performance.now() < end,
        `${missing().length} of ${stored.length} have not arrived; ${JSON.stringify([what, await failingOf()])}`,
      );
      parked = await parkedOf();
    }
    context.diagnostic(
      `${stored.length} messages in ${odd.received.length} POSTs, ${parked.size} parked; ${JSON.stringify(what)}`,
    );
    assert.ok(Math.min(what.failed, what.hung, what.slow, what.poisoned) > 0, JSON.stringify(what));

    for (const [channel, seqs] of taken) {
      const arrived = [...seqs].filter((seq) => !parked.has(`${channel} ${seq}`));
      assert.deepEqual(
        arrived,
        [...arrived].sort((a, b) => a - b),
        `${channel}: first arrivals in order`,
      );
    }
    // A parked batch blocked nothing for good: later messages of its channels have arrived, and it
    // arrives after a redelivery.
    healed = true;
    assert.ok((await call.post('/v1/webhooks/odd/deliveries:redeliver', {})).body.queued > 0);
    await odd.until('what was parked', () => stored.every(isTaken));
    assert.equal(
      [...taken.values()].reduce((sum, seqs) => sum + seqs.size, 0),
      stored.length,
    );

    // The other webhook was not affected.
    const calm = new Map<string, Set<number>>();
    await steady.until('all at the steady one', () => {
      calm.clear();
      for (const received of steady.received)
        for (const { channel_id: channel, message_seq: seq } of messagesOf(received))
          calm.set(channel, (calm.get(channel) ?? new Set()).add(seq));
      return stored.every(({ channel, seq }) => calm.get(channel)?.has(seq));
    });
    for (const [channel, seqs] of calm)
      assert.deepEqual(
        [...seqs],
        [...seqs].sort((a, b) => a - b),
        channel,
      );
    await assertSound(first.databaseUrl);
  });
});

test('an invalid webhook in the settings is refused at startup by its name', async () => {
  const database = await createDatabase();
  const secret = `whsec_${Buffer.alloc(32).toString('base64')}`;
  const url = 'https://example.com/hook';
  const rows: [Record<string, string>, RegExp][] = [
    [{ WEBHOOK_URL: url }, /WEBHOOK_URL requires WEBHOOK_SECRET/],
    [{ WEBHOOK_SECRET: secret }, /WEBHOOK_SECRET requires WEBHOOK_URL/],
    [{ WEBHOOK_URL: url, WEBHOOK_SECRET: 'short' }, /WEBHOOK_SECRET must be whsec_/],
    [{ WEBHOOK_URL: 'nonsense', WEBHOOK_SECRET: secret }, /WEBHOOK_URL: must be an http or https URL/],
    [
      { WEBHOOK_URL: 'http://10.0.0.1/', WEBHOOK_SECRET: secret },
      /WEBHOOK_URL must be an https URL.*WEBHOOK_ALLOW_PRIVATE/,
    ],
    [
      { WEBHOOK_URL: 'https://[fd00::1]/', WEBHOOK_FORMAT: 'legacy' },
      /WEBHOOK_URL must lead to a public address, not fd00::1/,
    ],
    [{ WEBHOOK_FORMAT: 'odd' }, /WEBHOOK_FORMAT/],
    [{ WEBHOOK_TIMEOUT: '0' }, /WEBHOOK_TIMEOUT/],
  ];
  for (const [env, words] of rows) {
    const { code, output } = await runToEnd({ DATABASE_URL: database.url, ...env });
    assert.equal(code, 1, output);
    assert.match(output, words);
    assert.ok(!output.includes(secret));
  }
  await database.drop();
});
