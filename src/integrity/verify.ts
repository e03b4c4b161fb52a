import { limits } from '../limits.ts';
import type { Db } from '../postgres/schema.ts';
import { blocks, doubleIds, factsBetween, lastChannelKey, lastOfPiece, strayKeys, withMemory } from './verify.sql.ts';
import { type ChannelViolation, violationsOf } from './violations.ts';

/** How far a verification is, and what it found since it last said so. */
export interface Step {
  /** Of `of`, by the keys of channels. */
  readonly done: number;
  readonly of: number;
  readonly channels: number;
  readonly messages: number;
  readonly faults: readonly ChannelViolation[];
}

/** Channels that one statement examines. */
const pieceChannels = 200;
/** Faults that are no channel's own, named at most: a thousandth is as good as a million. */
const namedStrays = 1000;
/**
 * Checks the promises of the store, piece by piece, as many at once as the pool may give `connections`; nothing is locked, and what is sent meanwhile disturbs nothing. Channels that are created meanwhile are left out.
 */
export async function* verify(db: Db, connections = 1): AsyncGenerator<Step> {
  const of = await lastChannelKey(db);
  let [channels, messages, done] = [0, 0, 0];
  const ready: Step[] = [];
  let wake = () => {};
  let stopped = false;
  /** Where the next piece begins. Each worker asks for its end on its own connection, after the one before has found its own. */
  let begin = Promise.resolve(0);
  const nextPiece = async (connection: Db) => {
    const mine = begin.then(async (after) => ({
      after,
      last: after < of ? await lastOfPiece(connection, after, pieceChannels) : undefined,
    }));
    begin = mine.then(
      ({ last }) => last ?? of,
      () => of,
    );
    return await mine;
  };
  const work = async (connection: Db) => {
    while (!stopped) {
      const { after, last } = await nextPiece(connection);
      if (last === undefined) return;
      const facts = await factsBetween(connection, after, Math.min(last, of));
      channels += facts.length;
      for (const each of facts) messages += each.kept;
      done += Math.min(last, of) - after;
      ready.push({ done, of, channels, messages, faults: facts.flatMap(violationsOf) });
      wake();
    }
  };
  const examine = (many: number) => Promise.all(Array.from({ length: many }, () => withMemory(db, work)));
  // What is of no one channel takes a third of the time: it has a connection of its own, where there are several.
  const across =
    connections > 1
      ? Promise.all([acrossChannels(db), examine(connections - 1)]).then(([found]) => found)
      : examine(1).then(() => (stopped ? [] : acrossChannels(db)));
  let ended = false;
  across.then(
    () => {
      ended = true;
      wake();
    },
    () => {
      stopped = true;
      ended = true;
      wake();
    },
  );
  try {
    for (;;) {
      yield* ready.splice(0);
      if (ended) break;
      await new Promise<void>((resolve) => {
        wake = resolve;
        if (ready.length > 0 || ended) resolve();
      });
    }
    yield { done: of, of, channels, messages, faults: await across };
  } finally {
    stopped = true;
    await across.catch(() => {});
  }
}

async function acrossChannels(db: Db): Promise<ChannelViolation[]> {
  const strays = await withMemory(db, (connection) => strayKeys(connection, namedStrays));
  const doubles = await withMemory(db, (connection) => doubleIds(connection, namedStrays));
  const { largest, given } = await blocks(db, limits.idsPerBlock);
  return [
    ...strays.map(
      ({ channelKey, messages }): ChannelViolation => ({
        kind: 'CHANNEL_MISSING',
        what: `channel_key ${channelKey} has a head or ${messages} messages, and no channel`,
      }),
    ),
    ...doubles.map(
      ({ id, places }): ChannelViolation => ({
        kind: 'DOUBLE_ID',
        what: `message_id ${id} is used again: ${places.join(', ')}`,
      }),
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
