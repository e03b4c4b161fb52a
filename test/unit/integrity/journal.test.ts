import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { verifyJournal } from '../../../src/integrity/journal.ts';
import { JournalError, parseEntry } from '../../../src/integrity/journal-entry.ts';
import { overShards } from '../../../src/postgres/over-shards.ts';
import { sweepExpired } from '../../../src/retention/sweep.sql.ts';
import { createDatabase, openStore, shards, type TestDatabase } from '../../support/database.ts';
import { startService } from '../../support/service.ts';
import { query } from '../../support/verify.ts';

interface Sent {
  readonly channel_type: number;
  readonly channel_id: string;
  readonly from_uid: string;
  readonly client_msg_no: string;
  readonly message_seq: number;
  readonly message_id: number;
  readonly sync_once?: number;
}

describe('verify --journal', () => {
  let database: TestDatabase;
  let folder: string;
  let file: string;
  const sent: Sent[] = [];
  before(async () => {
    database = await createDatabase();
    folder = mkdtempSync(join(tmpdir(), 'sendbatch-test-journal-'));
    file = join(folder, 'acknowledged.ndjson');
    const service = await startService({ databaseUrl: database.url });
    const send = async (channel_id: string, channel_type: number, more: object = {}) => {
      const draft = { channel_type, channel_id, from_uid: 'u', client_msg_no: `k${sent.length}`, payload: 'SGk=' };
      const answer = await fetch(`${service.url}/message/sendbatch`, {
        method: 'POST',
        body: JSON.stringify([{ ...draft, ...more }]),
      });
      const [{ message_id, message_seq }] = (await answer.json()) as [Sent];
      const { payload: _, ...facts } = draft;
      sent.push({ ...facts, message_id, message_seq, ...('header' in more ? { sync_once: 1 } : {}) });
    };
    for (let round = 0; round < 5; round++) {
      await send('room', 2);
      await send('peer', 1);
      await send('short', 2, round < 2 ? { expire: 1 } : {});
      await send('room', 2, { header: { sync_once: 1 } });
      await send('whole', 2);
    }
    await service.stop();
    const db = openStore(database.url);
    const swept = await overShards(db, shards.all, (shard) => sweepExpired(shard, 10, Date.now() + 2 * 86_400_000));
    assert.equal(Math.max(...swept), 2);
    await db.destroy();
  });
  after(async () => {
    rmSync(folder, { recursive: true });
    await database.drop();
  });

  async function compare(lines: readonly string[]) {
    writeFileSync(file, lines.join(''));
    const db = openStore(database.url);
    const total = { entries: 0, removed: 0, unnumbered: 0, faults: [] as string[] };
    try {
      for await (const step of verifyJournal({ db, shards }, file, 2)) {
        total.entries += step.entries;
        total.removed += step.removed;
        total.unnumbered += step.unnumbered;
        total.faults.push(...step.faults.map(({ kind, what }) => `${kind} ${what.replace(`${file}:`, '')}`));
      }
    } finally {
      await db.destroy();
    }
    return total;
  }
  const lineOf = (entry: object) => `${JSON.stringify(entry)}\n`;

  test('a journal of acknowledged messages is found as stored or as swept, in any order and twice', async () => {
    const lines = [...sent, ...sent.toReversed()].map(lineOf);
    const payload_sha256 = createHash('sha256').update('Hi').digest('hex');
    lines.push(lineOf({ ...sent[0], payload_sha256 }), lineOf({ ...sent[0], message_seq: 0 }), '\n', '{"channel_ty');
    assert.deepEqual(await compare(lines), { entries: 51, removed: 4, unnumbered: 1, faults: [] });
  });

  test('a journal with more lines than one statement takes is compared whole', async () => {
    const lines = Array.from({ length: 4500 }, (_, index) => lineOf(sent[index % sent.length] ?? {}));
    const { entries, removed, faults } = await compare(lines);
    assert.deepEqual([entries, removed, faults], [4500, 360, []]);
  });

  test('a journal that is not UTF-8 is refused with its line, and may begin with a byte order mark', async () => {
    const line = lineOf(sent[0] ?? {});
    assert.equal((await compare(['\ufeff', line, line.trimEnd()])).entries, 2);
    const db = openStore(database.url);
    for (const [bytes, at] of [
      [Buffer.from(`${line}${line.replace('"u"', '"\xff"')}${line}`, 'latin1'), 2],
      [Buffer.from(`${line}${line.trimEnd().replace('"u"', '"\xff"')}`, 'latin1'), 2],
    ] as const) {
      writeFileSync(file, bytes);
      await assert.rejects(Array.fromAsync(verifyJournal({ db, shards }, file, 1)), {
        message: `${file}:${at}: not valid UTF-8`,
      });
    }
    // Its writer was killed amid a character.
    writeFileSync(file, Buffer.concat([Buffer.from(`${line}{"channel_id":"`), Buffer.from('é').subarray(0, 1)]));
    assert.equal((await Array.fromAsync(verifyJournal({ db, shards }, file, 1)))[0]?.entries, 1);
    await db.destroy();
  });

  test('lost, misnumbered and changed messages of a journal are reported with their line', async () => {
    const [room, peer] = sent;
    const { faults } = await compare(
      [
        { ...room, client_msg_no: 'never', message_seq: 9 },
        { ...room, client_msg_no: 'never' },
        { ...room, message_seq: 2 },
        { ...peer, message_id: 5 },
        { ...room, payload_sha256: '0'.repeat(64) },
        { ...room, channel_id: 'unknown' },
        // The swept count of its channel covers two messages, which are not this one.
        { ...room, channel_id: 'short', message_seq: 6, client_msg_no: 'never' },
      ].map(lineOf),
    );
    assert.deepEqual(
      faults.map((fault) => fault.replace(/ seq .*? key "k?\w*"/, '')),
      [
        'ACKNOWLEDGED_LOST 1: was acknowledged, and is not stored',
        'ACKNOWLEDGED_LOST 2: was acknowledged, and another message has its seq',
        `ACKNOWLEDGED_MISNUMBERED 3: was acknowledged, and is stored as seq 1, id ${room?.message_id}`,
        `ACKNOWLEDGED_MISNUMBERED 4: was acknowledged, and is stored as seq 1, id ${peer?.message_id}`,
        'ACKNOWLEDGED_CHANGED 5: the payload of is not the one that was acknowledged',
        'ACKNOWLEDGED_LOST 6: was acknowledged, and its channel does not exist',
        'ACKNOWLEDGED_LOST 7: was acknowledged, and is not stored',
      ],
    );
  });

  test('a deleted row is lost also in a channel from which others were swept', async () => {
    const short = sent.filter(({ channel_id }) => channel_id === 'short');
    const copy = await createDatabase({ copyOf: database.url });
    const db = openStore(copy.url);
    await query(copy.url, `delete from sendbatch.message where client_msg_no = '${short[4]?.client_msg_no}'`);
    writeFileSync(file, short.map(lineOf).join(''));
    const steps = await Array.fromAsync(verifyJournal({ db, shards }, file, 1));
    await db.destroy();
    await copy.drop();
    // Which of the missing ones were swept cannot be told: all of them are reported.
    const faults = steps.flatMap((step) => step.faults);
    assert.deepEqual(
      faults.map(({ kind }) => kind),
      ['ACKNOWLEDGED_LOST', 'ACKNOWLEDGED_LOST', 'ACKNOWLEDGED_LOST'],
    );
  });

  for (const [line, message] of [
    ['x', /j:3: not JSON/],
    ['[]', /j:3: not an object/],
    ['{"run":"r","line":1,"tally":{}}', /progress file of `send`/],
    ['{"channel_type":2,"channel_id":"c","from_uid":"u"}', /j:3: message_seq must be a whole number/],
    ['{"channel_type":2,"channel_id":"","from_uid":"u"}', /j:3: channel_id must be a text/],
    ['{"channel_type":2,"channel_id":"c","from_uid":"u","message_seq":""}', /j:3: message_seq must be a whole/],
    ['{"channel_type":"0x2","channel_id":"c","from_uid":"u"}', /j:3: channel_type must be a whole number/],
  ] as const)
    test(`the journal line ${line} is refused with its number`, () => {
      assert.throws(
        () => parseEntry(line, 3, 'j'),
        (error) => error instanceof JournalError && message.test(error.message),
      );
    });

  test('a journal line may have numbers as texts, and names a person channel as the send did', () => {
    const text = JSON.stringify({
      channel_type: 1,
      channel_id: 'u2',
      from_uid: 'u1',
      client_msg_no: 'k',
      message_seq: '7',
      message_id: '9007199254740991',
    });
    const { channelId, messageSeq, messageId } = parseEntry(text, 1, 'j') ?? {};
    assert.deepEqual([channelId, messageSeq, messageId], ['u2@u1', 7, 9007199254740991]);
  });
});
