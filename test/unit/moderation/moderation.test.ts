import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { limits } from '../../../src/limits.ts';
import { ChannelKeys } from '../../../src/messages/channel-keys.sql.ts';
import { prepareMessage } from '../../../src/messages/message.ts';
import { createModeration, type Moderation } from '../../../src/moderation/moderation.ts';
import type { Rule } from '../../../src/moderation/rules.ts';
import { openOwnStore, shards } from '../../support/database.ts';
import { watchStalls } from '../../support/stalls.ts';

const rule = (more: Partial<Rule>): Omit<Rule, 'ruleId'> => ({
  action: 'refuse',
  keywords: [],
  patterns: [],
  channelTypes: [],
  tagKeys: [],
  note: '',
  ...more,
});
let messageCount = 0;
const message = (text: string) =>
  prepareMessage(
    {
      clientMsgNo: '',
      fromUid: 'u',
      channelId: 'c',
      channelType: 2,
      expire: 0,
      payload: Buffer.from(text),
      subscribers: [],
      streamNo: '',
      tagKey: '',
    },
    `k${messageCount++}`,
  );

describe('moderation', () => {
  let moderation: Moderation;
  let close: () => Promise<void>;
  before(async () => {
    const store = await openOwnStore();
    moderation = createModeration({ ...store, shards, channelKeys: new ChannelKeys(store.db) }, undefined, {
      messageMs: 40,
    });
    close = async () => {
      await moderation.close();
      await store.close();
    };
  });
  after(() => close());
  const removeAll = async () => {
    for (const { ruleId } of await moderation.list()) await moderation.remove(ruleId);
  };
  const reasons = async (texts: readonly string[], caller = 'a') => {
    const messages = texts.map(message);
    const { refused } = await moderation.moderate(messages, { caller });
    return messages.map((each) => refused.get(each)?.message ?? 'ok');
  };

  test('moderation of heavy texts delays neither the event loop nor other callers', async () => {
    await removeAll();
    await moderation.create(rule({ keywords: ['bad'], patterns: ['1[3-9]\\d{9}', '.{1,500}xyz'] }));
    const stalls = watchStalls();
    let heavyDone = 0;
    const heavy = Array.from({ length: 6 }, async (_, index) => {
      const texts = [`${index}${'a'.repeat(65_000)}`];
      const answers = await reasons(texts, `heavy-${index}`);
      assert.match(answers[0] ?? '', /moderation of the content took longer than 40 ms; send less text/);
      heavyDone++;
    });
    // A caller that sends little waits for the current slice only.
    for (let call = 0; call < 5; call++)
      assert.deepEqual(await reasons(['fine', 'bad'], 'light'), ['ok', 'rule 1 refused the content']);
    assert.ok(heavyDone < 6, 'the light calls ended first');
    await Promise.all(heavy);
    const longest = stalls();
    assert.ok(longest < 100, `the event loop was blocked for ${longest} ms`);
  });

  test('moderation judges each message of a large batch once and in order, however it is sliced', async () => {
    await removeAll();
    await moderation.create(rule({ keywords: ['bad'] }));
    const texts = Array.from({ length: 1000 }, (_, index) =>
      index % 7 === 0 ? `bad ${index} ${'x'.repeat(index * 10)}` : `fine ${index % 5}`,
    );
    const answers = await reasons(texts);
    assert.deepEqual(
      answers.map((each) => each !== 'ok'),
      texts.map((_, index) => index % 7 === 0),
    );
  });

  test('the old rules apply until the new ones are compiled, and never a mix of both', async () => {
    await removeAll();
    const { ruleId } = await moderation.create(rule({ keywords: ['old'] }));
    let isReady = false;
    const keywords = Array.from({ length: 10_000 }, (_, index) => `new${index}`.padEnd(40, 'z'));
    const replaced = moderation.replace({ ...rule({ keywords: [...keywords, 'new'] }), ruleId }).then(() => {
      isReady = true;
    });
    const states = new Set<string>();
    while (!isReady) {
      const [byOld, byNew] = (await reasons(['old', 'new'])).map((each) => each !== 'ok');
      states.add(`${byOld} ${byNew}`);
    }
    await replaced;
    for (const state of states) assert.ok(['true false', 'false true'].includes(state), state);
    assert.deepEqual(
      (await reasons(['old', 'new'])).map((each) => each !== 'ok'),
      [false, true],
    );
  });

  test('rules above a limit are refused with an error that names the limit', async () => {
    await removeAll();
    const stalls = watchStalls();
    await assert.rejects(
      moderation.create(rule({ patterns: ['(((a{1,10}){1,10}){1,10})b'] })),
      new RegExp(`patterns\\[0\\]: compiles to 2224 instructions, at most ${limits.patternInstructions} are allowed`),
    );
    await assert.rejects(
      moderation.create(rule({ patterns: ['(x{0,1000})'.repeat(90)] })),
      /patterns\[0\]: (compiles|takes)/,
    );
    const many = rule({ patterns: Array.from({ length: 60 }, (_, index) => `.{1,900}${index}`) });
    await assert.rejects(
      moderation.create(many),
      /must have at most 100000 instructions in all rules together, not \d+/,
    );
    const words = Array.from({ length: 20_000 }, (_, index) => `${index}`.padEnd(60, 'y'));
    await assert.rejects(
      moderation.create(rule({ keywords: words })),
      /must have at most 1000000 characters in all rules together, not 1200000/,
    );
    assert.deepEqual(await moderation.list(), []);
    const longest = stalls();
    assert.ok(longest < 100, `the event loop was blocked for ${longest} ms`);
  });
});
