import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sql } from 'kysely';
import pg from 'pg';
import { ChannelKeys } from '../../../src/messages/channel-keys.sql.ts';
import { endDelivery } from '../../../src/webhooks/lanes.sql.ts';
import { routeOutbox } from '../../../src/webhooks/outbox-router.sql.ts';
import { claimLanes, takeDelivery } from '../../../src/webhooks/queue.sql.ts';
import { insertWebhook } from '../../../src/webhooks/webhooks.sql.ts';
import { createDatabase, openStore, shards } from '../../support/database.ts';
import { untilOneWaitsFor } from '../../support/watch.ts';

test('the router queues new messages while a lane reads its messages, and no message is taken twice', async () => {
  const database = await createDatabase();
  const router = openStore(database.url);
  const lane = openStore(database.url);
  const holder = new pg.Client({ connectionString: database.url });
  await holder.connect();
  try {
    const spec = { url: 'https://receiver.test', format: 'standard', channelTypes: [], disabled: false } as const;
    await insertWebhook(router, { name: 'w', ...spec, batchSize: 100, maxWaitMs: 0 }, 'whsec_x');
    await sql`insert into sendbatch.channel (channel_type, sequence, channel_id) values (2, 0, 'c')`.execute(router);
    const store = (seq: number) => sql`
      with stored as (
        insert into sendbatch.message (channel_key, message_seq, message_id, accepted_at, dedupe_key, flags, content_hash, from_uid, client_msg_no, payload)
        select channel_key, ${seq}::bigint, ${seq}::bigint, 0, gen_random_uuid(), 0, '', 'u', ${`m${seq}`}::text, 'x' from sendbatch.channel
      )
      insert into sendbatch.webhook_outbox (channel_key, first_seq, last_seq) select channel_key, ${seq}::bigint, ${seq}::bigint from sendbatch.channel`;
    await store(1).execute(router);
    assert.equal(await routeOutbox({ db: router, shards }), 1);
    const [lease] = await claimLanes(lane, crypto.randomUUID(), { leaseMs: 60_000, failuresBeforeBreak: 5 });
    assert.ok(lease);
    const ofLane = { db: lane, shards, channelKeys: new ChannelKeys(lane) };
    const take = () => takeDelivery(ofLane, lease, { newId: `msg_${Math.random()}`, leaseMs: 60_000, now: Date.now() });

    await store(2).execute(router);
    await holder.query('begin; lock table sendbatch.message in access exclusive mode');
    const taking = take();
    await untilOneWaitsFor(holder);
    assert.equal(await routeOutbox({ db: router, shards }), 1, 'the router does not wait for the lane');
    await holder.query('rollback');
    assert.deepEqual(
      (await taking)?.messages.map((each) => each.clientMsgNo),
      ['m1'],
    );
    assert.ok(await endDelivery(lane, lease));
    assert.deepEqual(
      (await take())?.messages.map((each) => each.clientMsgNo),
      ['m2'],
    );
    assert.ok(await endDelivery(lane, lease));

    // A lane skips rows that the router has locked.
    await store(3).execute(router);
    await routeOutbox({ db: router, shards });
    await holder.query('begin; select from sendbatch.webhook_queue for update');
    assert.equal(await take(), undefined);
    await holder.query('rollback');
    assert.deepEqual(
      (await take())?.messages.map((each) => each.clientMsgNo),
      ['m3'],
    );
    assert.ok(await endDelivery(lane, lease));
    const { rows } = await sql`select from sendbatch.webhook_queue`.execute(lane);
    assert.equal(rows.length, 0);
  } finally {
    await holder.end();
    await router.destroy();
    await lane.destroy();
    await database.drop();
  }
});
