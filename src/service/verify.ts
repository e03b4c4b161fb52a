import { type Fault, faultsOf } from '../domain/soundness.ts';
import { limits } from '../limits.ts';
import type { Db } from '../storage/database.ts';
import { blocks, countChannels, doubleIds, factsAfter, strayKeys } from '../storage/verify.ts';

/** How far a verification is, and what it found since it last said so. */
export interface Step {
  /** Of `of`, by the keys of channels. */
  readonly done: number;
  readonly of: number;
  readonly channels: number;
  readonly messages: number;
  readonly faults: readonly Fault[];
}

/** Channels that one statement looks at. */
const pieceChannels = 200;
/** Faults that are no channel's own, named at most: a thousandth is as good as a million. */
const namedStrays = 1000;

/** Checks the promises of the store, piece by piece; nothing is locked, and what is sent meanwhile disturbs nothing. */
export async function* verify(db: Db): AsyncGenerator<Step> {
  const { lastKey: of } = await countChannels(db);
  let channels = 0;
  let messages = 0;
  let done = 0;
  // Bounded: each piece begins after the last one, and channels that are made meanwhile are left out.
  while (done < of) {
    const { lastKey, facts } = await factsAfter(db, done, pieceChannels);
    if (lastKey === undefined) break;
    channels += facts.length;
    for (const each of facts) messages += each.kept;
    done = Math.min(lastKey, of);
    yield { done, of, channels, messages, faults: facts.flatMap(faultsOf) };
  }
  yield { done: of, of, channels, messages, faults: await acrossChannels(db) };
}

async function acrossChannels(db: Db): Promise<Fault[]> {
  const strays = await strayKeys(db, namedStrays);
  const doubles = await doubleIds(db, namedStrays);
  // Blocks that are drawn between the two readings only raise what was given out.
  const { largest, given } = await blocks(db, limits.idsPerBlock);
  return [
    ...strays.map(
      ({ channelKey, messages }): Fault => ({
        kind: 'CHANNEL_MISSING',
        what: `channel_key ${channelKey} has a head or ${messages} messages, and no channel`,
      }),
    ),
    ...doubles.map(
      ({ id, places }): Fault => ({ kind: 'DOUBLE_ID', what: `message_id ${id} is used again: ${places.join(', ')}` }),
    ),
    ...(largest > given
      ? [
          {
            kind: 'IDS_AHEAD_OF_BLOCKS' as const,
            what: `ids are of block ${largest}, and sendbatch.message_block has given out ${given}: it will give ids out again`,
          },
        ]
      : []),
  ];
}
