import assert from 'node:assert/strict';
import { test } from 'node:test';
import { trustedCaller } from '../../../src/messages/caller.ts';
import { channel, messageSequence } from '../../../src/messages/channel.ts';
import { ChannelKeys } from '../../../src/messages/channel-keys.sql.ts';
import type { Store } from '../../../src/sending/group-context.ts';
import { createTails, type Frame } from '../../../src/tailing/tails.ts';
import { openOwnStore } from '../../support/database.ts';

test('readers of channels that do not exist cost nothing when others are created, and wake by the key of their own', async (context) => {
  const own = await openOwnStore();
  let asked = 0;
  class CountedKeys extends ChannelKeys {
    override find(...call: Parameters<ChannelKeys['find']>) {
      asked++;
      return super.find(...call);
    }
  }
  const everybody = { has: () => true };
  const rules = { systemUids: everybody, systemReaders: everybody, enforcePersonAllowlist: false };
  const keys = new CountedKeys(own.db, (made) => tails.channelsMade(made));
  const store: Store = { db: own.db, channelKeys: keys, rules };
  const tails = createTails(store);
  const signal = new AbortController().signal;
  const readers = Array.from({ length: 200 }, (_, index) => {
    const channels = [{ channelType: 2, channelId: `unmade${index}`, afterSeq: 0, fromNow: false }];
    return tails
      .subscribe({ caller: trustedCaller, uid: '', channels, allOfUid: false, signal })
      [Symbol.asyncIterator]();
  });
  context.after(async () => {
    tails.close();
    await own.close();
  });
  for (const reader of readers) assert.equal((await reader.next()).value?.kind, 'caught-up');
  const waiting = readers.map((reader) => reader.next());
  for (const each of waiting) each.catch(() => {});

  asked = 0;
  const create = (id: string) => keys.findOrCreate([channel(2, id, messageSequence)]);
  for (let index = 0; index < 60; index++) await create(`other${index}`);
  // The two look-ups of the one that creates.
  assert.equal(asked, 120);
  await tails.poll();
  assert.equal(asked, 121, 'a poll asks for all of them at once');

  const [key] = (await create('unmade7')).values();
  await own.db
    .insertInto('sendbatch.message')
    .values({
      channel_key: key ?? 0,
      message_seq: 1,
      message_id: 1,
      accepted_at: Date.now(),
      dedupe_key: '00000000-0000-0000-0000-000000000001',
      flags: 0,
      content_hash: Buffer.of(),
      from_uid: 'u',
      client_msg_no: 'k',
      payload: Buffer.from('x'),
      expire: null,
      stream_no: null,
      tag_key: null,
      subscribers: null,
    })
    .execute();
  tails.wake([key ?? 0]);
  const frame = (await waiting[7])?.value as Frame;
  assert.deepEqual([frame.kind, frame.kind === 'message' && frame.message.messageSeq], ['message', 1]);
  assert.equal(asked, 123);
  assert.deepEqual(tails.counts(), { readers: 200, channels: 1 });
});
