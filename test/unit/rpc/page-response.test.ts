import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { describe, test } from 'node:test';
import { create, fromBinary, toBinary, toJsonString } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { ListMessagesResponseSchema } from '../../../gen/sendbatch/v1/message_service_pb.ts';
import { bytesOf, withinBytes } from '../../../src/messages/page.ts';
import { type StoredMessage, StoredRow } from '../../../src/messages/stored-row.ts';
import { RowReader, takeBinaryRows } from '../../../src/postgres/binary-rows.ts';
import type { Page } from '../../../src/reading/read-channel.ts';
import { encodeResponse } from '../../../src/rpc/encode-response.ts';
import { alwaysWritten } from '../../../src/rpc/legacy.ts';
import { toMessage } from '../../../src/rpc/message-mapping.ts';
import { PageResponse } from '../../../src/rpc/page-response.ts';
import { JsonWriter } from '../../../src/transcode/json-writer.ts';
import { seedOf } from '../../support/seed.ts';

const count = fc.oneof(fc.constantFrom(0, 1, 127, 128, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 53 - 1), fc.maxSafeNat());
const text = fc.oneof(
  fc.constant(''),
  fc.string({ maxLength: 64 }).map((value) => value.toWellFormed().replaceAll('\0', '')),
  fc.constantFrom('user-1', '消息', 'é'.repeat(100), '\u{1f600}'),
);
const message = fc
  .record({
    messageId: count,
    messageSeq: count,
    acceptedAt: fc.oneof(fc.constantFrom(0, 999, 1000, 1_700_000_000_000), fc.nat(253_402_300_799_999)),
    flags: fc.nat(31),
    fromUid: text,
    clientMsgNo: text,
    payload: fc.oneof(fc.uint8Array({ maxLength: 300 }), fc.constant(new Uint8Array(20_000).fill(7))),
    expire: fc.oneof(fc.constantFrom(0, 1, 2 ** 32 - 1), fc.nat()),
    streamNo: text,
    tagKey: text,
    subscribers: fc.oneof(
      { weight: 9, arbitrary: fc.constant([]) },
      { weight: 1, arbitrary: fc.array(text, { minLength: 1, maxLength: 3 }) },
    ),
    // Pages of up to six messages, of which one in ten was changed, are mostly as they were sent.
    changes: fc.oneof(
      { weight: 18, arbitrary: fc.constant(undefined) },
      {
        weight: 1,
        arbitrary: fc.record({ revision: fc.constant(1), editedAt: fc.constant(1_700_000_000_001) }),
      },
      {
        weight: 1,
        arbitrary: fc.record({
          revision: fc.constant(2),
          recalledAt: fc.constant(1_700_000_000_002),
          recalledBy: text,
        }),
      },
    ),
  })
  .map(
    ({ payload, changes, ...rest }): StoredMessage => ({
      ...rest,
      payload: Buffer.from(payload),
      ...(changes === undefined ? {} : { changes: { ...changes } }),
    }),
  );

/** A message of the protocol of PostgreSQL. */
function frame(type: string, ...parts: Uint8Array[]): Buffer {
  const body = Buffer.concat(parts);
  const head = Buffer.from(`${type}....`);
  head.writeUInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}

function int(bytes: 2 | 4 | 8, value: number): Buffer {
  const buffer = Buffer.alloc(bytes);
  if (bytes === 8) buffer.writeBigInt64BE(BigInt(value));
  else buffer.writeIntBE(value, 0, bytes);
  return buffer;
}

function row(columns: readonly (Uint8Array | null)[]): Buffer {
  const values = columns.flatMap((each) => (each === null ? [int(4, -1)] : [int(4, each.length), each]));
  return frame('D', int(2, columns.length), ...values);
}

/** The description of rows with one column. */
const description = (isBinary: boolean) =>
  frame('T', int(2, 1), Buffer.from('name\0'), Buffer.alloc(16), int(2, isBinary ? 1 : 0));

/** A row as PostgreSQL sends it in binary: empty optional columns are null. */
function binaryRow(each: StoredMessage): Buffer {
  const jsonb = (value: unknown) => Buffer.from(`\u0001${JSON.stringify(value)}`);
  const optional = (value: string) => (value === '' ? null : Buffer.from(value));
  return row([
    ...[int(8, each.messageId), int(8, each.messageSeq), int(8, each.acceptedAt), int(2, each.flags)],
    ...[Buffer.from(each.fromUid), Buffer.from(each.clientMsgNo), each.payload],
    ...[each.expire === 0 ? null : int(8, each.expire), optional(each.streamNo), optional(each.tagKey)],
    each.subscribers.length === 0 ? null : jsonb(each.subscribers),
    each.changes === undefined ? null : jsonb(each.changes),
  ]);
}

/** Receives the binary rows of an answer that arrives in chunks of these sizes. */
function receive(messages: readonly StoredMessage[], sizes: readonly number[]): StoredRow[] {
  const others = [
    Buffer.concat([frame('1'), description(false), row([Buffer.from('text')]), frame('C', Buffer.from('SELECT 1\0'))]),
    frame('N', Buffer.from('notice\0')),
    Buffer.concat([frame('C', Buffer.from('SELECT 2\0')), frame('Z', Buffer.from('I')), description(false)]),
    Buffer.concat([row([Buffer.from('text')]), frame('Z', Buffer.from('I'))]),
  ] as const;
  const half = Math.ceil(messages.length / 2);
  const rows = messages.map(binaryRow);
  const sent = Buffer.concat([
    ...[others[0], description(true), ...rows.slice(0, half), others[1], ...rows.slice(half), others[2], others[3]],
  ]);
  const source = new EventEmitter();
  const found: StoredRow[] = [];
  const passed: Buffer[] = [];
  let passedBytes = 0;
  const rest = takeBinaryRows(source, (rows) => {
    const reader = new RowReader(rows);
    while (reader.next()) {
      const before = others[0].length + (found.length < half ? 0 : others[1].length);
      assert.equal(passedBytes, before, 'the parser has what came before the row');
      found.push(new StoredRow(reader, reader.bigint() ?? -1));
    }
  });
  rest.on('data', (bytes: Buffer) => {
    passed.push(bytes);
    passedBytes += bytes.length;
  });
  for (let at = 0, index = 0; at < sent.length; index++) {
    const end = at + (sizes[index % sizes.length] ?? sent.length);
    source.emit('data', sent.subarray(at, end));
    at = end;
  }
  assert.deepEqual(Buffer.concat(passed), Buffer.concat(others));
  return found;
}

describe('a page of history from binary rows', () => {
  test('a page has the same bytes, sizes and fields as on the general path, however its rows arrive', (context) => {
    const page = fc.record({
      messages: fc.array(message, { maxLength: 6 }),
      // The last size ends long answers soon.
      sizes: fc
        .array(fc.oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 10, max: 9000 })))
        .map((sizes) => [...sizes, 70_000]),
      channelType: fc.constantFrom(1, 2, 200),
      channelId: fc.constantFrom('group', 'a@b', '频道'),
      more: fc.boolean(),
      nextSeq: count,
      lastSeq: count,
    });
    const writer = new JsonWriter({
      protoNames: true,
      longsAsNumbers: true,
      enumsAsNumbers: true,
      alwaysImplicit: alwaysWritten,
    });
    const pages = { plain: 0, general: 0 };
    fc.assert(
      fc.property(page, ({ messages, sizes, ...rest }) => {
        const rows = receive(messages, sizes);
        assert.equal(rows.length, messages.length);
        for (const [index, each] of messages.entries()) {
          const { subscribers, changes, payload, fromUid, clientMsgNo, streamNo, tagKey } = rows[index] as StoredRow;
          assert.deepEqual({ ...each, subscribers, payload, fromUid, clientMsgNo, streamNo, tagKey }, each);
          assert.deepEqual(changes, each.changes);
          assert.equal(bytesOf(rows[index]), bytesOf(each));
        }
        assert.equal(withinBytes(rows).length, withinBytes(messages).length);
        const ofRows: Page = { ...rest, messages: rows };
        const general = create(ListMessagesResponseSchema, {
          messages: messages.map((each) => toMessage(rest, each)),
          more: rest.more,
          lastSeq: BigInt(rest.lastSeq),
          ...(rest.more ? { nextSeq: BigInt(rest.nextSeq) } : {}),
        });
        const expected = Buffer.from(toBinary(ListMessagesResponseSchema, general));
        assert.deepEqual(encodeResponse(ListMessagesResponseSchema, new PageResponse(ofRows)), expected);
        const behindRoom = encodeResponse(ListMessagesResponseSchema, new PageResponse(ofRows), 5);
        assert.deepEqual(behindRoom.subarray(5), expected);
        // Messages that were read in text, and other encodings, take the general path.
        assert.deepEqual(
          encodeResponse(ListMessagesResponseSchema, new PageResponse({ ...ofRows, messages })),
          expected,
        );
        const response = new PageResponse(ofRows);
        const json = response.toJson();
        if (json !== undefined) assert.equal(json, writer.message(ListMessagesResponseSchema, general));
        const arePlain = messages.every((each) => each.subscribers.length === 0 && each.changes === undefined);
        assert.equal(json !== undefined, arePlain);
        if (messages.length > 0) pages[arePlain ? 'plain' : 'general']++;
        assert.deepEqual(Buffer.from(toBinary(ListMessagesResponseSchema, response)), expected);
        assert.equal(
          toJsonString(ListMessagesResponseSchema, response),
          toJsonString(ListMessagesResponseSchema, fromBinary(ListMessagesResponseSchema, expected)),
        );
      }),
      { seed: seedOf(context), numRuns: 200 },
    );
    context.diagnostic(`${pages.plain} plain pages, ${pages.general} others`);
    assert.ok(Math.min(pages.plain, pages.general) > 20, 'the generated pages were too similar to prove anything');
  });

  test('a bigint above 2^53-1 in a binary row is refused', () => {
    const bytes = row([Buffer.from('0020000000000000', 'hex')]);
    const reader = new RowReader({ bytes, start: 0, end: bytes.length });
    assert.ok(reader.next());
    assert.throws(() => reader.bigint(), RangeError);
    assert.equal(reader.next(), false);
  });
});
