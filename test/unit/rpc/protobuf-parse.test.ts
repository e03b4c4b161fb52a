import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { create, equals, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { SubmitBatchRequestSchema } from '../../../gen/sendbatch/v1/batch_service_pb.ts';
import { parseProtobuf } from '../../../src/rpc/protobuf-parse.ts';
import { seedOf } from '../../support/seed.ts';

const schema = SubmitBatchRequestSchema;

/** A batch large enough to be parsed in slices. */
const batch = fc
  .array(
    fc.record({
      header: fc.option(fc.record({ redDot: fc.nat({ max: 1 }) }), { nil: undefined }),
      clientMsgNo: fc.string(),
      fromUid: fc.string({ unit: 'binary' }).filter((text) => text.isWellFormed()),
      channelId: fc.string(),
      channelType: fc.nat({ max: 12 }),
      payload: fc.uint8Array({ maxLength: 30 }),
      subscribers: fc.array(fc.string(), { maxLength: 3 }),
      template: fc.option(fc.record({ name: fc.string(), variables: fc.dictionary(fc.string(), fc.string()) }), {
        nil: undefined,
      }),
    }),
    { minLength: 5, maxLength: 20 },
  )
  .map((some) =>
    create(schema, {
      messages: Array.from({ length: 60 }, () => some).flat() as NonNullable<
        MessageInitShape<typeof schema>['messages']
      >,
      name: 'a name',
    }),
  );

describe('parsing Protobuf in slices', () => {
  test('a message parsed in slices equals one parsed at once, including unknown fields', async (context) => {
    await fc.assert(
      fc.asyncProperty(batch, fc.boolean(), async (message, more) => {
        const unknown = Buffer.from(more ? 'f82a01' : '', 'hex');
        const bytes = Buffer.concat([unknown, toBinary(schema, message), unknown]);
        const read = (await parseProtobuf(schema, bytes)) as typeof message;
        assert.ok(equals(schema, read, fromBinary(schema, bytes)));
        const same = toBinary(schema, fromBinary(schema, bytes));
        assert.ok(Buffer.from(toBinary(schema, read)).equals(same));
      }),
      { seed: seedOf(context), numRuns: 20 },
    );
  });

  test('a damaged message parsed in slices equals one parsed at once, or fails', async (context) => {
    await fc.assert(
      fc.asyncProperty(batch, fc.nat(), fc.nat({ max: 255 }), async (message, at, byte) => {
        const bytes = toBinary(schema, message);
        bytes[at % bytes.length] = byte;
        const outcome = async (parse: () => unknown) => {
          try {
            return Buffer.from(toBinary(schema, (await parse()) as typeof message));
          } catch {
            return undefined;
          }
        };
        // The scan refuses some damage that the parser accepts, never the other way round.
        const sliced = await outcome(() => parseProtobuf(schema, bytes));
        if (sliced !== undefined) assert.ok((await outcome(() => fromBinary(schema, bytes)))?.equals(sliced));
      }),
      { seed: seedOf(context), numRuns: 50, endOnFailure: true },
    );
  });
});

test('a field with another wire type is refused, because the parser would find other fields than were counted', async () => {
  // `messages` as a fixed32, whose bytes the parser reads as the start of a message.
  const bytes = Buffer.concat([Buffer.from([0x0d, 0, 10, 0, 10]), Buffer.alloc(20_000, Buffer.from([10, 0]))]);
  await assert.rejects(async () => await parseProtobuf(schema, bytes), /written as another type/);
});
