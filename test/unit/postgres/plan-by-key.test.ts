import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { sql } from 'kysely';
import { firstKeptChange, readChangesAfter } from '../../../src/changes/read-changes.sql.ts';
import { channel, messageSequence } from '../../../src/messages/channel.ts';
import { readManyHeadsAndFirst } from '../../../src/messages/channel-heads.sql.ts';
import { ChannelKeys, readNames } from '../../../src/messages/channel-keys.sql.ts';
import { memberChannels } from '../../../src/messages/member-lists.sql.ts';
import { findByNumbers } from '../../../src/messages/messages-find.sql.ts';
import { readNextOfEach, readRange, readRangeAndHeads } from '../../../src/messages/messages-read.sql.ts';
import { syncCommands } from '../../../src/reading/commands.sql.ts';
import { listConversations } from '../../../src/reading/conversations.sql.ts';
import { createAppend } from '../../../src/sending/append.ts';
import { createDirect } from '../../../src/sending/lanes.ts';
import { createDatabase, openOwnStore, openStore, shards } from '../../support/database.ts';
import { prepared } from '../../support/prepared.ts';

/** PostgreSQL plans a statement five times with its values before it considers a plan for all. */
const executions = 7;
const rules = { systemUids: new Set<string>(), systemReaders: new Set<string>(), enforcePersonAllowlist: false };

describe('statements that find rows by key', () => {
  let store: Awaited<ReturnType<typeof openOwnStore>>;
  before(async () => {
    store = await openOwnStore();
  });
  after(() => store.close());

  test('one plan serves all values, and reads no table as a whole however small it is', async () => {
    const { db } = store;
    let sends = 0;
    const messageTo = (channelId: string, channelType: number, key = `key ${sends++}`) =>
      prepared(key, { fromUid: 'alice', channelId, channelType });
    const send = async (...messages: ReturnType<typeof messageTo>[]) => {
      const append = createAppend({ db, shards, channelKeys: new ChannelKeys(db, { shards }), rules });
      const batch = { messages, atomic: false, expectedLastSeqs: new Map<string, number>() };
      const outcomes = await createDirect(append)(batch);
      return outcomes.map((each) => (each.kind === 'refused' ? each.refusal.reason : each.kind));
    };
    const openType = 6;
    assert.deepEqual(await send(messageTo('open', openType, 'first'), messageTo('bob', 1)), ['accepted', 'accepted']);
    const keys = new ChannelKeys(db, { shards });
    const openChannel = channel(openType, 'open', messageSequence);
    const channelKey = (await keys.find([openChannel])).get(openChannel.key) ?? 0;
    // With these figures of small tables, reading all of a table looks cheapest.
    await sql`vacuum analyze`.execute(db);
    const scansBefore = await scans();

    const range = { afterSeq: 0, beforeSeq: 100, limit: 10 };
    for (let run = 0; run < executions; run++) {
      assert.deepEqual(await send(messageTo('open', openType), messageTo('bob', 1)), ['accepted', 'accepted']);
      assert.deepEqual(await send(messageTo('open', openType, 'first')), ['duplicate']);
      assert.deepEqual(await send(messageTo('closed', 2)), ['CHANNEL_NOT_EXIST']);
      assert.equal((await readNames(db, [channelKey])).size, 1);
      assert.equal((await readManyHeadsAndFirst(db, [channelKey])).get(channelKey)?.firstSeq, 1);
      for (const descending of [false, true]) {
        assert.ok((await readRangeAndHeads(db, channelKey, { ...range, descending }, 0)).messages.length > 1);
        for (const viewerUid of [undefined, 'bob'])
          assert.ok((await readRange(db, channelKey, { ...range, descending, viewerUid }, 0)).length > 1);
      }
      assert.equal((await readNextOfEach(db, [{ channelKey, afterSeq: 0 }], 10, 0)).length, 1);
      assert.equal((await memberChannels({ db, shards, channelKeys: keys }, 'bob', 10)).length, 1);
      assert.equal((await listConversations({ db, shards, channelKeys: keys }, 'bob', undefined, 10, 0)).length, 1);
      await syncCommands({ db, shards, channelKeys: keys }, 'bob', 0, 10, 0);
      for (const viewerUid of [undefined, 'bob'])
        assert.equal((await findByNumbers(db, channelKey, { seqs: [1, 2], ids: [], viewerUid }, 0)).length, 2);
      await readChangesAfter(db, channelKey, { afterChange: 0, limit: 10 }, 0);
      await firstKeptChange(db, channelKey);
    }

    assert.deepEqual(await scans(), scansBefore);
    const { rows: planned } = await sql<{ name: string; custom_plans: number; generic_plans: number }>`
      select name, custom_plans, generic_plans from pg_prepared_statements where name <> 'insert messages' order by name`.execute(
      db,
    );
    assert.ok(planned.length > 20, planned.map((each) => each.name).join(', '));
    assert.deepEqual(
      planned.filter((each) => Number(each.custom_plans) > 0),
      [],
    );
  });

  test('on Citus, which needs the values to find a node, no plan for all values is asked for', async () => {
    const database = await createDatabase();
    // The setting by which Citus is recognized; PostgreSQL takes any with a dot in its name.
    const db = openStore(`${database.url}${database.url.includes('?') ? '&' : '?'}options=-c%20citus.version%3D13`);
    try {
      for (let run = 0; run < executions - 2; run++) await readNames(db, [1]);
      const { rows } = await sql<{ custom_plans: number; generic_plans: number }>`
        select custom_plans, generic_plans from pg_prepared_statements where name = 'name channels'`.execute(db);
      assert.deepEqual(rows, [{ custom_plans: executions - 2, generic_plans: 0 }]);
    } finally {
      await db.destroy();
      await database.drop();
    }
  });

  /** How often each table was read as a whole. */
  async function scans() {
    // Counters of this session reach the view when it is idle for a second, or at once after this.
    await sql`select pg_stat_force_next_flush()`.execute(store.db);
    const { rows } = await sql<{ name: string; scans: number }>`
      select schemaname || '.' || relname as name, seq_scan as scans from pg_stat_user_tables
      where relname in ('channel', 'channel_head', 'channel_info', 'channel_uid', 'command_inbox', 'command_taken', 'message', 'message_change', 'person', 'person_uid', 'read_cursor')
      order by name`.execute(store.db);
    return rows;
  }
});
