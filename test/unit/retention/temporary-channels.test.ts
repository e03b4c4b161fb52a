import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createChannels } from '../../../src/channels/channels.ts';
import { ChannelKeys } from '../../../src/messages/channel-keys.sql.ts';
import { type PreparedMessage, prepareMessage } from '../../../src/messages/message.ts';
import { ServiceError } from '../../../src/messages/service-error.ts';
import type { Db } from '../../../src/postgres/schema.ts';
import { sweepTemporary } from '../../../src/retention/temporary-channels.sql.ts';
import { createAppend } from '../../../src/sending/append.ts';
import { openOwnStore, openStore, shards } from '../../support/database.ts';
import { jsonCaller } from '../../support/json.ts';
import { startService, type TestService } from '../../support/service.ts';
import { query } from '../../support/verify.ts';

const dayMs = 86_400_000;
const payload = Buffer.from('x').toString('base64');

/** Two instances, each with its own cache of channel keys. */
describe('temporary channels', () => {
  let one: TestService;
  let two: TestService;
  before(async () => {
    one = await startService({ sweepIntervalMs: 3600_000 });
    two = await startService({ databaseUrl: one.databaseUrl, sweepIntervalMs: 3600_000 });
  });
  after(async () => {
    await two.stop();
    await one.stop();
  });

  const post = async (service: TestService, path: string, body: unknown) => {
    const answer = await jsonCaller(service.url).post(path, body);
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    return answer.body;
  };
  const send = async (service: TestService, key: string, subscribers: string[], more: object = {}) =>
    await post(service, '/message/sendbatch', [
      { from_uid: 'ops', payload, client_msg_no: key, header: { sync_once: 1 }, subscribers, ...more },
    ]);
  const lastOf = new Map<string, number>();
  const commands = async (uid: string) => {
    const all: { client_msg_no: string; message_seq: number }[] = await post(one, '/message/sync', {
      uid,
      message_seq: 0,
      limit: 0,
    });
    for (const { message_seq } of all) lastOf.set(uid, message_seq);
    return all.map((each) => each.client_msg_no);
  };
  /** Acknowledges the commands that were handed out. */
  const acknowledge = (uid: string) => post(one, '/message/syncack', { uid, last_message_seq: lastOf.get(uid) });
  /** Lets time pass for everything stored. */
  const pass = async (ms: number) => {
    await query(one.databaseUrl, `update sendbatch.message set accepted_at = accepted_at - ${ms}`);
    await query(one.databaseUrl, `update sendbatch.channel set look_at = look_at - ${ms}`);
  };
  const sweep = async () => {
    const db = openStore(one.databaseUrl);
    try {
      return (await sweepTemporary({ db, shards }, Date.now(), 100)).removed;
    } finally {
      await db.destroy();
    }
  };
  const left = async () => {
    const [row] = await query(
      one.databaseUrl,
      `select (select count(*) from sendbatch.channel where channel_type = 8)::integer as channels,
        (select count(*) from sendbatch.channel_head)::integer as heads, (select count(*) from sendbatch.channel_uid)::integer as members,
        (select count(*) from sendbatch.command_taken)::integer as taken, (select count(*) from sendbatch.command_inbox)::integer as inbox,
        (select count(*) from sendbatch.message)::integer as messages`,
    );
    return row;
  };
  const nothing = { channels: 0, heads: 0, members: 0, taken: 0, inbox: 0, messages: 0 };

  test('a temporary channel is removed once all receivers have acknowledged, one day after its last command and not before', async () => {
    await send(one, 'a1', ['r1', 'r2']);
    await send(two, 'a2', ['r1', 'r2']);
    assert.deepEqual(await commands('r1'), ['a1', 'a2']);
    await acknowledge('r1');
    await pass(3 * dayMs);
    assert.equal(await sweep(), 0, 'r2 has not been handed anything');
    assert.deepEqual(await commands('r2'), ['a1', 'a2']);
    await pass(dayMs);
    assert.equal(await sweep(), 0, 'r2 has not acknowledged');
    await acknowledge('r2');
    await send(two, 'a3', ['r1', 'r2']);
    for (const uid of ['r1', 'r2']) {
      assert.deepEqual(await commands(uid), ['a3']);
      await acknowledge(uid);
    }
    await pass(dayMs / 2);
    assert.equal(await sweep(), 0, 'a retry of a3 must find it');
    assert.equal((await send(one, 'a3', ['r1', 'r2']))[0].duplicate, true);
    await pass(dayMs);
    assert.equal(await sweep(), 1);
    assert.deepEqual(await left(), nothing);
  });

  test('a removed temporary channel is created again by the next send, in every instance that had cached it', async () => {
    for (const service of [two, one]) {
      await send(service, 'b1', ['r1', 'r2']);
      for (const uid of ['r1', 'r2']) {
        assert.deepEqual(await commands(uid), ['b1']);
        await acknowledge(uid);
      }
      await pass(2 * dayMs);
      assert.equal(await sweep(), 1);
      assert.deepEqual(await left(), nothing);
    }
  });

  test('a temporary channel does not wait for acknowledgements of expired commands', async () => {
    await send(one, 'c1', ['r1', 'r3'], { expire: 3600 });
    assert.deepEqual(await commands('r1'), ['c1']);
    await pass(2 * dayMs);
    assert.equal(await sweep(), 1);
    assert.deepEqual(await left(), nothing);
  });

  test('channels of that type created by a caller stay: named channels, and messages that are not commands', async () => {
    await post(one, '/channel', { channel_id: 'named', channel_type: 8, subscribers: ['r1'] });
    await send(one, 'd1', ['r1'], { channel_id: 'by name', channel_type: 8 });
    const before = await left();
    await pass(400 * dayMs);
    assert.equal(await sweep(), 0);
    assert.deepEqual(await left(), before);
    await query(one.databaseUrl, 'truncate sendbatch.message');
    await pass(400 * dayMs);
    assert.equal(await sweep(), 0);
  });

  test('no send fails and none is lost while the sweeper removes temporary channels', async () => {
    const receivers = [['s1'], ['s2'], ['s1', 's2']];
    let senders = receivers.length * 2;
    let removed = 0;
    const sweeping = (async () => {
      // Runs as of the day after tomorrow: everything stored is old and has expired for its
      // receivers.
      const db = openStore(one.databaseUrl);
      for (let days = 2; senders > 0; days += 2) {
        removed += (await sweepTemporary({ db, shards }, Date.now() + days * dayMs, 100)).removed;
        await new Promise((resolve) => setImmediate(resolve));
      }
      await db.destroy();
    })();
    const sending = [one, two].flatMap((service, place) =>
      receivers.map(async (uids, which) => {
        try {
          for (let index = 0; index < 10 || (removed < 5 && index < 1000); index++) {
            const [result] = await send(service, `e${place} ${which} ${index}`, uids, { expire: 60 });
            assert.ok(result.message_id > 0 && result.message_seq > 0, JSON.stringify(result));
          }
        } finally {
          senders--;
        }
      }),
    );
    await Promise.all([...sending, sweeping]);
    assert.ok(removed >= 5, `${removed} were removed meanwhile`);
    await send(one, 'last', ['s1']);
    await send(two, 'last', ['s1', 's2']);
    assert.deepEqual((await commands('s1')).filter((key) => key === 'last').length, 2);
  });
});

/**
 * A command as the store accepts it. A flagged one is stored in a transaction after the one that
 * creates its channel; an unflagged one would be stored by the statement that creates it.
 */
const flaggedCommandTo = (uids: readonly string[], key: string): PreparedMessage => ({
  ...prepareMessage(
    {
      header: { noPersist: 0, redDot: 0, syncOnce: 1 },
      clientMsgNo: key,
      fromUid: 'ops',
      channelId: '',
      channelType: 0,
      expire: 60,
      payload: Buffer.from(key),
      subscribers: uids,
      streamNo: '',
      tagKey: '',
    },
    key,
  ),
  flaggedBy: [0],
});

/** Sweeps that run days apart: everything stored by then is old and has expired. */
function daysOfSweeps(db: Db): () => Promise<number> {
  let days = 0;
  return async () => {
    days += 2;
    return (await sweepTemporary({ db, shards }, Date.now() + days * dayMs, 100)).removed;
  };
}

/** Channel keys whose temporary channel is removed right after its creation, a number of times. */
class SweptKeys extends ChannelKeys {
  readonly #sweep: () => Promise<number>;
  left: number;

  constructor(db: Db, times: number) {
    super(db, { shards });
    this.#sweep = daysOfSweeps(db);
    this.left = times;
  }

  override async findOrCreate(...call: Parameters<ChannelKeys['findOrCreate']>) {
    const keys = await super.findOrCreate(...call);
    // The first sweep leaves a channel to its creator.
    if (keys.size > 0 && this.left-- > 0) assert.deepEqual([await this.#sweep(), await this.#sweep()], [0, keys.size]);
    return keys;
  }
}

const allUids = { has: () => true };
const rules = { systemUids: allUids, systemReaders: allUids, enforcePersonAllowlist: false };

for (const atomic of [false, true])
  test(`a command whose channel is removed twenty times before it is stored is stored in the end, atomic: ${atomic}`, async (context) => {
    const { db, close } = await openOwnStore();
    context.after(close);
    const channelKeys = new SweptKeys(db, 20);
    const append = createAppend({ db, shards, channelKeys, rules });
    const messages = [flaggedCommandTo(['r1', 'r2'], 'k')];
    const [appended] = await append([{ messages, atomic, expectedLastSeqs: new Map() }]);
    assert.equal(appended?.status === 'fulfilled' && appended.value[0]?.kind, 'accepted');
    assert.ok(channelKeys.left < 0);
  });

test('a command whose channel is removed before each attempt is refused with STORE_BUSY', async (context) => {
  const { db, close } = await openOwnStore();
  context.after(close);
  const append = createAppend({ db, shards, channelKeys: new SweptKeys(db, Number.POSITIVE_INFINITY), rules });
  const batch = { messages: [flaggedCommandTo(['r1'], 'k')], atomic: false, expectedLastSeqs: new Map() };
  await assert.rejects(
    append([batch]),
    (error) => error instanceof ServiceError && error.refusal.reason === 'STORE_BUSY',
  );
});

test('a change of a channel that is removed after it was found is refused with STORE_BUSY', async (context) => {
  const { db, close } = await openOwnStore();
  context.after(close);
  class GoneKeys extends ChannelKeys {
    override async findOrCreate() {
      return new Map<string, number>();
    }
  }
  const listener = { membersChanged() {}, channelChanged() {} };
  const channels = createChannels({ db, shards, channelKeys: new GoneKeys(db), rules }, listener);
  const named = { channelType: 8, channelId: '0123456789abcdef0123456789abcdef' };
  await assert.rejects(
    channels.change(named, 'member', { add: ['u1'] }),
    (error) => error instanceof ServiceError && error.refusal.reason === 'STORE_BUSY',
  );
});
