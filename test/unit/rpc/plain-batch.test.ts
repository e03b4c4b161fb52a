import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { create, fromBinary, type Message, toBinary } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { MessageDraftSchema } from '../../../gen/sendbatch/v1/message_pb.ts';
import {
  type SendBatchRequest,
  SendBatchRequestSchema,
  SendBatchResponseSchema,
} from '../../../gen/sendbatch/v1/message_service_pb.ts';
import { limits } from '../../../src/limits.ts';
import type { Outcome } from '../../../src/messages/append-plan.ts';
import { keyCrcOf } from '../../../src/messages/channel.ts';
import { type Draft, type PreparedMessage, prepareMessage } from '../../../src/messages/message.ts';
import { PlainMessage } from '../../../src/messages/plain-message.ts';
import { encodeResponse } from '../../../src/rpc/encode-response.ts';
import { checkRules } from '../../../src/rpc/interceptors/validate.ts';
import { alwaysWritten } from '../../../src/rpc/legacy.ts';
import {
  allStored,
  decodePlainJson,
  decodePlainProtobuf,
  StoredResponse,
  toDraft,
} from '../../../src/rpc/plain-batch/index.ts';
import { Faults } from '../../../src/transcode/error.ts';
import { JsonReader } from '../../../src/transcode/json-reader.ts';
import { parseJson } from '../../../src/transcode/json-text.ts';
import { JsonWriter } from '../../../src/transcode/json-writer.ts';
import { seedOf } from '../../support/seed.ts';

/** The columns of a message, and what decides about it. */
function preparedFields({ channel, ...message }: PreparedMessage): object {
  const { isToUids, fromUid, clientMsgNo, dedupeKey, key, contentHash, flags } = message;
  const { expire, payload, subscribers, streamNo, tagKey } = message;
  return {
    ...{
      channel: { ...channel, keyCrc: keyCrcOf(channel) },
      isToUids,
      fromUid,
      clientMsgNo,
      dedupeKey,
      key,
      contentHash,
      flags,
    },
    ...{ expire, payload: Buffer.from(payload), subscribers, streamNo, tagKey },
  };
}

/** Asserts that a plainly decoded batch equals what the general path makes of the same body. */
function assertSame(plain: SendBatchRequest, general: SendBatchRequest): void {
  const { messages, ...rest } = plain;
  const { messages: drafts, ...generalRest } = general;
  assert.deepEqual(rest, generalRest);
  assert.equal(checkRules(SendBatchRequestSchema, create(SendBatchRequestSchema, { messages: drafts })), undefined);
  assert.equal(messages.length, drafts.length);
  for (const [index, draft] of drafts.entries()) {
    const message = messages[index] as unknown;
    assert.ok(message instanceof PlainMessage);
    const { clientMsgNo } = draft;
    assert.equal(message.hasKey, clientMsgNo !== '');
    const expected = preparedFields(prepareMessage(draft, clientMsgNo || 'generated'));
    assert.deepEqual(preparedFields(prepareMessage(message as Draft, clientMsgNo || 'generated')), expected);
    if (message.hasKey) {
      const prepared = message.prepare();
      // `spread` misses computed fields: each is read by its name.
      assert.deepEqual(
        preparedFields({
          ...draft,
          ...{ channel: prepared.channel, isToUids: prepared.isToUids, fromUid: prepared.fromUid },
          ...{ clientMsgNo: prepared.clientMsgNo, dedupeKey: prepared.dedupeKey, key: prepared.key },
          ...{ contentHash: prepared.contentHash, flags: prepared.flags, expire: prepared.expire },
          ...{ payload: prepared.payload, subscribers: prepared.subscribers },
          ...{ streamNo: prepared.streamNo, tagKey: prepared.tagKey },
        }),
        expected,
      );
    }
    const bare = { ...draft, header: draft.header ?? { noPersist: 0, redDot: 0, syncOnce: 0 } };
    const { header, ...fields } = toDraft(messages[index] as never);
    assert.deepEqual({ ...header }, { $typeName: 'sendbatch.v1.Header', ...bare.header });
    assert.deepEqual(Buffer.from(fields.payload), Buffer.from(draft.payload));
    for (const name of ['clientMsgNo', 'fromUid', 'channelId', 'channelType', 'expire'] as const)
      assert.equal(fields[name], draft[name]);
  }
}

const texts = fc.oneof(
  { weight: 12, arbitrary: fc.constantFrom('u1', 'u2', 'group', 'channel-1', 'key-0001') },
  { weight: 2, arbitrary: fc.constantFrom('消息', 'é', 'a b', '~', 'a/b', "it's", 'a\u007f', '\ufffd', '🚀') },
  {
    weight: 2,
    arbitrary: fc.constantFrom('', 'u1@u2', '@', 'a#b', 'a&b', 'a\0b', 'a\nb', 'a"b', 'a\\b', '\ufeffa', 'a\ufeff'),
  },
  {
    weight: 1,
    arbitrary: fc
      .tuple(fc.constantFrom('a', 'é', '消'), fc.constantFrom(128, 256), fc.integer({ min: -1, max: 1 }))
      .map(([unit, bytes, more]) => unit.repeat(Math.floor(bytes / Buffer.byteLength(unit)) + more)),
  },
);
const payloads = fc.oneof(
  { weight: 8, arbitrary: fc.uint8Array({ maxLength: 40 }) },
  {
    weight: 1,
    arbitrary: fc
      .constantFrom(0, 100, 1000, 1010, 1100, limits.payloadBytes, limits.payloadBytes + 1)
      .map((length) => new Uint8Array(length).fill(7)),
  },
);

/** A varint, with `more` needless bytes. */
function varint(value: number | bigint, more = 0): Buffer {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  for (; rest >= 128n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
  bytes.push(Number(rest));
  for (let index = 0; index < more; index++) {
    bytes[bytes.length - 1] = (bytes.at(-1) as number) | 128;
    bytes.push(0);
  }
  return Buffer.from(bytes);
}
const delimited = (field: number, value: Uint8Array, more = 0) =>
  Buffer.concat([varint((field << 3) | 2), varint(value.length, more), value]);
const number = (field: number, value: number | bigint, more = 0) =>
  Buffer.concat([varint(field << 3), varint(value, more)]);

const padding = fc.oneof(
  { weight: 20, arbitrary: fc.constant(0) },
  { weight: 1, arbitrary: fc.integer({ min: 1, max: 6 }) },
);
const rarely = <T>(usual: fc.Arbitrary<T>, rare: fc.Arbitrary<T>, weight = 30) =>
  fc.oneof({ weight, arbitrary: usual }, { weight: 1, arbitrary: rare });
const awkwardNumbers = fc.constantFrom<number | bigint>(2, 127, 128, 300, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2n ** 63n, -1);
const flags = fc
  .array(
    fc.tuple(
      rarely(fc.integer({ min: 1, max: 3 }), fc.constantFrom(4, 20)),
      rarely(fc.constantFrom(0, 1), awkwardNumbers),
      padding,
    ),
    { maxLength: 4 },
  )
  .map((all) => Buffer.concat(all.map(([field, value, more]) => number(field, value, more))));
const bytesOf = (text: string) => Buffer.from(text);
/** Bytes that are not UTF-8: cut, overlong, a surrogate, above U+10FFFF. */
const notUtf8 = fc
  .constantFrom([0xff], [0xe6, 0xb6], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80])
  .map(Buffer.from);
const textBytes = rarely(texts.map(bytesOf), notUtf8);
const field = (build: (more: number) => fc.Arbitrary<Buffer>) => padding.chain(build);
const usualFields = fc.tuple(
  fc.option(
    flags.map((all) => delimited(1, all)),
    { nil: Buffer.alloc(0) },
  ),
  fc.option(
    field((more) => textBytes.map((text) => delimited(2, text, more))),
    { nil: Buffer.alloc(0) },
  ),
  field((more) => textBytes.map((text) => delimited(3, text, more))),
  field((more) => textBytes.map((text) => delimited(4, text, more))),
  field((more) =>
    rarely(fc.integer({ min: 0, max: 13 }), awkwardNumbers as fc.Arbitrary<number>).map((type) =>
      number(5, type, more),
    ),
  ),
  fc.option(
    field((more) => awkwardNumbers.map((expire) => number(6, expire, more))),
    { nil: Buffer.alloc(0), freq: 2 },
  ),
  payloads.map((payload) => delimited(7, payload)),
);
const rareField = fc.oneof(
  fc.constantFrom(8, 9, 10).chain((each) => texts.map((text) => delimited(each, bytesOf(text)))),
  fc.constantFrom(11, 12, 13, 200).map((each) => delimited(each, Buffer.alloc(0))),
  fc.constantFrom(2, 3, 4, 7).chain((each) => textBytes.map((text) => delimited(each, text))),
  fc.constantFrom(1, 5, 6, 14).map((each) => number(each, 1)),
  flags.map((all) => delimited(1, all)),
);
const draftBytes = fc
  .tuple(
    usualFields,
    fc.boolean(),
    rarely(fc.constant<Buffer[]>([]), fc.array(rareField, { minLength: 1, maxLength: 2 })),
    fc.nat(),
  )
  .map(([fields, reversed, rare, at]) => {
    const all: Buffer[] = reversed ? [...fields].reverse() : [...fields];
    all.splice(at % (all.length + 1), 0, ...rare);
    return Buffer.concat(all);
  });
const rootField = fc.oneof(
  fc.constantFrom(0, 1, 2, 3, 300).map((mode) => number(2, mode)),
  fc.constantFrom(0, 1, 2).map((flag) => number(3, flag)),
  textBytes.map((text) => delimited(4, text)),
  fc.constantFrom(5, 6, 7, 15).map((each) => delimited(each, Buffer.alloc(0))),
  fc.constant(delimited(300, Buffer.alloc(3))),
);
const requestBytes = fc
  .tuple(
    fc.array(draftBytes, { minLength: 1, maxLength: 3 }),
    fc.array(rootField, { maxLength: 2 }),
    padding,
    rarely(fc.constant(0), fc.integer({ min: 1, max: 9 })),
    rarely(fc.constant(undefined), fc.tuple(fc.nat(), fc.nat({ max: 255 }))),
  )
  .map(([drafts, roots, more, cut, change]) => {
    const parts = drafts.map((draft) => delimited(1, draft, more));
    const bytes = Buffer.concat([...roots.slice(0, 1), ...parts, ...roots.slice(1)]);
    if (change !== undefined) bytes[change[0] % bytes.length] = change[1];
    return bytes.subarray(0, Math.max(0, bytes.length - cut));
  });

describe('a plain batch in Protobuf', () => {
  test('a plain batch in Protobuf is what the general parser reads, and obeys the rules', (context) => {
    let plainly = 0;
    fc.assert(
      fc.property(requestBytes, (bytes) => {
        const plain = decodePlainProtobuf(bytes);
        if (plain === undefined) return;
        plainly++;
        assertSame(plain, fromBinary(SendBatchRequestSchema, bytes));
      }),
      { seed: seedOf(context), numRuns: 5000 },
    );
    context.diagnostic(`${plainly} of 5000 were plain`);
    assert.ok(plainly > 200 && plainly < 4800, 'the generated batches were too similar to prove anything');
  });

  test('a plain batch of each channel type without names of two parts is decoded plainly', () => {
    for (const channelType of [1, 2, 3, 4, 6, 7, 8, 9, 10, 12])
      for (const syncOnce of [0, 1]) {
        const bytes = toBinary(
          SendBatchRequestSchema,
          create(SendBatchRequestSchema, { messages: [usual({ channelType, header: { syncOnce } })] }),
        );
        const plain = decodePlainProtobuf(bytes);
        assert.ok(plain);
        assertSame(plain, fromBinary(SendBatchRequestSchema, bytes));
      }
  });

  test('a text beyond ASCII is never taken for one whose UTF-16 units are its bytes', () => {
    // The bytes of `é` are the units of `Ã©`. A cache that confuses them shows it on a common slot.
    for (let index = 0; index < 100; index++) {
      const messages = Array.from({ length: 500 }, (_, offset) =>
        ['Ã©', 'é'].map((text) => `${text}${index}-${offset}`),
      )
        .flat()
        .map((text) => usual({ fromUid: text, channelId: text }));
      const plain = decodePlainProtobuf(toBinary(SendBatchRequestSchema, create(SendBatchRequestSchema, { messages })));
      for (const [at, { fromUid, channelId }] of (plain?.messages ?? []).entries()) {
        assert.equal(fromUid, messages[at]?.fromUid);
        assert.equal(channelId, messages[at]?.channelId);
      }
    }
  });

  for (const count of [0, limits.batchMessages, limits.batchMessages + 1]) {
    test(`a batch of ${count} messages is ${count === limits.batchMessages ? '' : 'not '}plain`, () => {
      const messages = Array.from({ length: count }, () => usual({}));
      const bytes = toBinary(SendBatchRequestSchema, create(SendBatchRequestSchema, { messages }));
      const json = Buffer.from(JSON.stringify(messages.map(() => usualJson)));
      assert.equal(decodePlainProtobuf(bytes) !== undefined, count === limits.batchMessages);
      assert.equal(decodePlainJson(json) !== undefined, count === limits.batchMessages);
    });
  }
});

function usual(fields: object) {
  return create(MessageDraftSchema, {
    ...{ clientMsgNo: 'k', fromUid: 'u1', channelId: 'c1', channelType: 2, payload: Buffer.from('x') },
    ...fields,
  });
}
const usualJson = { client_msg_no: 'k', from_uid: 'u1', channel_id: 'c1', channel_type: 2, payload: 'eA==' };

/** JSON of a value with random white space. */
const blank = fc.oneof(
  { weight: 100, arbitrary: fc.constant('') },
  { weight: 10, arbitrary: fc.constantFrom(' ', '\n', '\t', '\r\n  ') },
  { weight: 1, arbitrary: fc.constantFrom('\v', '\u00a0') },
);
const quoted = fc
  .tuple(texts, rarely(fc.constant(false), fc.constant(true)))
  .map(([text, escaped]) =>
    escaped
      ? `"${[...text].map((each) => `\\u${each.charCodeAt(0).toString(16).padStart(4, '0')}`).join('')}"`
      : JSON.stringify(text),
  );
const wrongValue = fc.constantFrom(
  'null',
  'true',
  '1.0',
  '1e0',
  '-0',
  '01',
  '"1"',
  '[]',
  '{}',
  '"',
  '4294967296',
  '99999999999',
);
const base64 = fc
  .tuple(
    payloads,
    fc.constantFrom<BufferEncoding>('base64', 'base64url'),
    rarely(fc.constant(''), fc.constantFrom('=', '==', 'A', '*', '\\n')),
  )
  .map(([payload, alphabet, more]) => `"${Buffer.from(payload).toString(alphabet)}${more}"`);
const digits = fc.oneof(
  { weight: 8, arbitrary: fc.integer({ min: 0, max: 13 }).map(String) },
  { weight: 1, arbitrary: fc.constantFrom('300', '4294967295') },
);
const member = (names: readonly [string, ...string[]], value: fc.Arbitrary<string>) =>
  fc
    .tuple(
      rarely(fc.constantFrom(...names), fc.constantFrom(names[0].toUpperCase(), 'other', 'payload', '__proto__'), 150),
      blank,
      blank,
      rarely(value, wrongValue, 100),
    )
    .map(([name, before, after, text]) => `${before}"${name}"${after}:${before}${text}${after}`);
const headerJson = fc
  .tuple(
    member(['no_persist', 'noPersist'], fc.constantFrom('0', '1')),
    member(['red_dot', 'redDot'], fc.constantFrom('0', '1')),
    member(['sync_once', 'syncOnce'], fc.constantFrom('0', '1')),
    fc.integer({ min: 0, max: 3 }),
  )
  .map(([a, b, c, count]) => `{${[a, b, c].slice(0, count).join(',')}}`);
const draftJson = fc
  .tuple(
    fc.option(member(['header'], headerJson), { nil: undefined }),
    fc.option(member(['client_msg_no', 'clientMsgNo'], quoted), { nil: undefined }),
    member(['from_uid', 'fromUid'], quoted),
    member(['channel_id', 'channelId'], quoted),
    member(['channel_type', 'channelType'], digits),
    fc.option(member(['expire'], digits), { nil: undefined }),
    member(['payload'], base64),
    fc.boolean(),
    rarely(
      fc.constant(undefined),
      fc.constantFrom('"stream_no":"s"', '"subscribers":[]', '"from_uid":"u1"', '"x":1', ''),
    ),
  )
  .map(([header, key, uid, channel, type, expire, payload, reversed, rare]) => {
    const members = [header, key, uid, channel, type, expire, payload, rare].filter((each) => each !== undefined);
    return `{${(reversed ? members.reverse() : members).join(',')}}`;
  });
const bodyJson = fc
  .tuple(
    fc.array(draftJson, { minLength: 1, maxLength: 3 }),
    blank,
    rarely(fc.constant(0), fc.integer({ min: 1, max: 5 })),
    rarely(fc.constant(undefined), fc.tuple(fc.nat(), fc.constantFrom(0, 9, 32, 34, 44, 48, 92, 93, 125, 195, 255))),
    rarely(fc.constant(''), fc.constantFrom(']', ',', ' ', '\ufeff')),
  )
  .map(([drafts, space, cut, change, more]) => {
    const bytes = Buffer.from(`[${space}${drafts.join(`,${space}`)}${space}]${space}${more}`);
    if (change !== undefined) bytes[change[0] % bytes.length] = change[1];
    return bytes.subarray(0, bytes.length - cut);
  });

const reader = new JsonReader({ strictNumbers: true, strictFields: false, anyCase: true });
const [messagesField] = SendBatchRequestSchema.fields;

function readGenerally(bytes: Uint8Array): SendBatchRequest {
  const faults = new Faults();
  const message: Message = create(SendBatchRequestSchema);
  assert.ok(messagesField);
  reader.field(message, messagesField, parseJson(bytes), faults);
  faults.settle();
  return message as SendBatchRequest;
}

describe('a plain batch in JSON', () => {
  test('a plain batch in JSON is what the general reader reads, and obeys the rules', (context) => {
    let plainly = 0;
    fc.assert(
      fc.property(bodyJson, (bytes) => {
        const plain = decodePlainJson(bytes);
        if (plain === undefined) return;
        plainly++;
        assertSame(plain, readGenerally(bytes));
      }),
      { seed: seedOf(context), numRuns: 5000 },
    );
    context.diagnostic(`${plainly} of 5000 were plain`);
    assert.ok(plainly > 200 && plainly < 4800, 'the generated bodies were too similar to prove anything');
  });

  test('a payload in base64 is decoded like the general reader decodes it, for all lengths and endings', () => {
    for (let length = 1; length < 12; length++)
      for (const ending of ['', '=', '==', '===', 'A=', '-', '_', '+', '/', '%', 'é']) {
        const payload = `${'QUJDREVGR0hJSktM'.slice(0, length)}${ending}`;
        const bytes = Buffer.from(JSON.stringify([{ ...usualJson, payload }]));
        const plain = decodePlainJson(bytes);
        let general: SendBatchRequest | undefined;
        try {
          general = readGenerally(bytes);
        } catch {}
        assert.equal(plain === undefined, general === undefined, payload);
        if (plain !== undefined && general !== undefined) assertSame(plain, general);
      }
  });
});

const stored = fc.record({
  kind: fc.constantFrom('accepted', 'duplicate'),
  isPlain: fc.boolean(),
  clientMsgNo: fc.oneof(
    fc.string({ minLength: 1, maxLength: 128 }).filter((text) => text.isWellFormed()),
    fc.constantFrom('k1', '消息', 'é'.repeat(64)),
  ),
  messageId: fc.oneof(fc.constantFrom(0, 1, 127, 128, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 53 - 1), fc.maxSafeNat()),
  messageSeq: fc.oneof(fc.constantFrom(0, 1, 127, 128, 16_383, 16_384), fc.maxSafeNat()),
});

describe('the answer of a batch without refusals', () => {
  test('the answer has the same bytes as the general encoding, in Protobuf and in JSON', (context) => {
    const writer = new JsonWriter({
      protoNames: true,
      longsAsNumbers: true,
      enumsAsNumbers: true,
      alwaysImplicit: alwaysWritten,
    });
    const [resultsField] = SendBatchResponseSchema.fields;
    assert.ok(resultsField);
    fc.assert(
      fc.property(fc.array(stored, { maxLength: 5 }), (all) => {
        const outcomes = all.map(({ isPlain, clientMsgNo, ...outcome }): Outcome => {
          const draft = usual({ clientMsgNo });
          const bytes = toBinary(SendBatchRequestSchema, create(SendBatchRequestSchema, { messages: [draft] }));
          const plain = isPlain ? (decodePlainProtobuf(bytes)?.messages[0] as unknown) : undefined;
          const message = plain instanceof PlainMessage ? plain : prepareMessage(draft, clientMsgNo);
          return { ...outcome, kind: outcome.kind as 'accepted', message };
        });
        assert.ok(allStored(outcomes));
        const duplicates = outcomes.filter(({ kind }) => (kind as string) === 'duplicate').length;
        const counts = { accepted: outcomes.length - duplicates, duplicates };
        const response = new StoredResponse(outcomes, counts);
        const general = create(SendBatchResponseSchema, {
          results: all.map(({ kind, clientMsgNo, messageId, messageSeq }) => ({
            ...{ clientMsgNo, messageId: BigInt(messageId), messageSeq: BigInt(messageSeq) },
            duplicate: kind === 'duplicate',
          })),
          acceptedCount: counts.accepted,
          duplicateCount: counts.duplicates,
        });
        const expected = Buffer.from(toBinary(SendBatchResponseSchema, general));
        assert.deepEqual(Buffer.from(encodeResponse(SendBatchResponseSchema, response)), expected);
        // Another encoding reads the fields.
        assert.deepEqual(Buffer.from(toBinary(SendBatchResponseSchema, response)), expected);
        assert.equal(response.toJson(), writer.field(general, resultsField));
      }),
      { seed: seedOf(context), numRuns: 2000 },
    );
  });
});
