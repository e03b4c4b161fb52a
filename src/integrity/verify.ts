// Verifies the invariants of a database: dense sequences, unique ids and once-only keys, heads that
// match.
//
// Entry point: `verify`, used by `sendbatch verify`. It reads on several connections, locks
// nothing, and may run beside sends. violations.ts decides what is a violation; verify.sql.ts
// reads.

import { limits } from '../limits.ts';
import type { Db } from '../postgres/schema.ts';
import { blocks, doubleIds, factsBetween, lastChannelKey, lastOfPiece, strayKeys, withMemory } from './verify.sql.ts';
import { type ChannelViolation, violationsOf } from './violations.ts';

/** Progress of a verification, and what it found since the last report. */
export interface Step {
  /** Progress out of `of`, by channel key. */
  readonly done: number;
  readonly of: number;
  readonly channels: number;
  readonly messages: number;
  readonly faults: readonly ChannelViolation[];
}

/** Channels examined per statement. */
const pieceChannels = 200;
/** Violations named at most that belong to no single channel. */
const namedStrays = 1000;
/**
 * Verifies the invariants of the store, piece by piece, on `connections` connections. Locks
 * nothing; sends may go on. Channels created meanwhile are left out.
 */
export async function* verify(db: Db, connections = 1): AsyncGenerator<Step> {
  const of = await lastChannelKey(db);
  let [channels, messages, done] = [0, 0, 0];
  const ready: Step[] = [];
  let wake = () => {};
  let stopped = false;
  /**
   * Start of the next piece. Each worker finds its end on its own connection, after its predecessor
   * found its own.
   */
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
  // Checks over all channels take a third of the time: they get a connection of their own if there
  // are several.
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
