import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { sql } from 'kysely';
import type { Db } from '../../../src/postgres/schema.ts';
import { sweepExpired, sweepOld } from '../../../src/retention/sweep.sql.ts';
import { startSweeper } from '../../../src/retention/sweeper.ts';
import { openOwnStore, shards } from '../../support/database.ts';

const dayMs = 86_400_000;
const now = 100 * dayMs;

describe('the sweeper', () => {
  let db: Db;
  let close: () => Promise<void>;
  before(async () => {
    ({ db, close } = await openOwnStore());
  });
  after(() => close());

  /** Channels of a type with messages of these ages in days, in order; `expire` in seconds. */
  async function make(type: number, names: string, channels: number, ages: readonly number[], expire?: number) {
    await sql`
      with made as (
        insert into sendbatch.channel (channel_type, sequence, channel_id)
        select ${type}::smallint, 0, ${names}::text || n from generate_series(1, ${channels}::integer) n returning channel_key
      ), heads as (
        insert into sendbatch.channel_head (channel_key, last_seq) select channel_key, ${ages.length}::bigint from made
      )
      insert into sendbatch.message (channel_key, message_seq, message_id, accepted_at, dedupe_key, flags, content_hash, from_uid, client_msg_no, payload, expire)
      select made.channel_key, a.seq, made.channel_key * 100000 + a.seq, ${now}::bigint - a.age * ${dayMs}::bigint, gen_random_uuid(), 0, '', 'u', '', 'x', ${expire ?? null}::bigint
      from made, unnest(${[...ages]}::integer[]) with ordinality as a(age, seq)`.execute(db);
  }
  async function left(type: number): Promise<{ channels: number; messages: number }> {
    const { rows } = await sql<{ channels: number; messages: number }>`
      select count(distinct channel_key)::integer as channels, count(*)::integer as messages
      from sendbatch.message join sendbatch.channel using (channel_key) where channel_type = ${type}`.execute(db);
    return rows[0] ?? assert.fail();
  }
  /** One run of a newly started sweeper. */
  async function runOnce(retention: { channelType: number; days: number }[]): Promise<number> {
    const start = performance.now();
    const ended = Promise.withResolvers<void>();
    const sweeper = startSweeper({
      everyMs: 3600_000,
      retention,
      sweepExpired: (limit, at) => sweepExpired(db, limit, at),
      sweepOld: (...step) => sweepOld({ db, shards }, ...step),
      sweepCopies: async () => 0,
      sweepTemporary: async () => ({ more: false }),
      sweepInboxes: async () => {},
      sweepLive: async () => {},
      now: () => now,
      onError: ended.reject,
      onRun: () => ended.resolve(),
    });
    sweeper.nudge();
    await ended.promise;
    await sweeper.stop();
    return performance.now() - start;
  }

  test('one run of the sweeper reaches every channel of a type, however many there are and whatever a hot one holds', async (context) => {
    await make(3, 'young before ', 2000, [1]);
    await make(2, 'hot ', 1, Array(5000).fill(40));
    await make(2, 'old ', 6000, [40, 20, 1]);
    await make(2, 'few among many ', 1, [31, 29]);
    await make(2, 'a clock was ahead ', 1, [40, 39, 0, 38, 1]);
    const ms = await runOnce([{ channelType: 2, days: 30 }]);
    context.diagnostic(`${Math.round(ms)} ms for 11,004 messages in 6,003 channels`);
    assert.deepEqual(await left(2), { channels: 6002, messages: 6000 * 2 + 1 + 2 });
    assert.deepEqual(await left(3), { channels: 2000, messages: 2000 });
    const { rows } = await sql<{
      messages: number;
    }>`select sum(messages)::integer as messages from sendbatch.swept`.execute(db);
    assert.equal(rows[0]?.messages, 5000 + 6000 + 1 + 3, 'verify can tell what was swept');
  });

  test('the sweeper skips channels until their oldest message is too old', async () => {
    const due = async (days: number) => {
      const { rows } = await sql<{ count: number }>`
        select count(*)::integer as count from sendbatch.channel
        where channel_type = 2 and oldest_at < ${now - days * dayMs}`.execute(db);
      return rows[0]?.count;
    };
    assert.equal(await due(30), 0);
    assert.equal(await due(15), 6001, 'a shorter retention finds what it makes too old');
    await runOnce([{ channelType: 2, days: 15 }]);
    assert.deepEqual(await left(2), { channels: 6001, messages: 6000 + 2 });
  });

  test('one run of the sweeper removes everything that has expired', async (context) => {
    await make(4, 'expired ', 100, Array(250).fill(3), 3600);
    await make(4, 'lasting ', 10, [3], 30 * 86_400);
    const ms = await runOnce([]);
    context.diagnostic(`${Math.round(ms)} ms for 25,000 messages`);
    assert.deepEqual(await left(4), { channels: 10, messages: 10 });
  });
});
