import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  type CommitControl,
  createGroupCommit,
  type GroupCommit,
  type GroupCommitOptions,
} from '../../../src/sending/group-commit.ts';
import { seedOf } from '../../support/seed.ts';

/**
 * A job is a number: its cost, and its answer is its square. `bad` jobs fail every group that they
 * are in.
 */
interface Job {
  readonly weight: number;
  readonly bad?: boolean;
}
class Busy extends Error {}
const done = (jobs: readonly Job[]) => jobs.map(({ weight }) => ({ status: 'fulfilled' as const, value: weight ** 2 }));

const eventLoopTurn = () => new Promise((resolve) => setImmediate(resolve));

/** A set of lanes whose commits end when the test says so. */
function openLanes(change: Partial<GroupCommitOptions<Job, number>> = {}) {
  const groups: { jobs: readonly Job[]; control: CommitControl; end: (error?: Error) => void }[] = [];
  let arrived: (() => void) | undefined;
  const commits: GroupCommit<Job, number> = createGroupCommit<Job, number>({
    lanes: 1,
    groupBounds: { items: 10, bytes: 1000 },
    queueBounds: { items: 20, bytes: 1000 },
    pipelineFrom: { items: 3, bytes: 1000 },
    maxWaitMs: 60_000,
    weigh: ({ weight }) => ({ items: weight, bytes: 1 }),
    commit: (jobs, control) =>
      new Promise((resolve, reject) => {
        groups.push({ jobs, control, end: (error) => (error === undefined ? resolve(done(jobs)) : reject(error)) });
        arrived?.();
      }),
    shouldBisect: (error) => !(error instanceof Busy),
    refuse: (why) => new Busy(why),
    ...change,
  });
  return {
    commits,
    /** The group with this index, once its commit is in flight. */
    async group(index: number) {
      while (groups[index] === undefined) {
        const { promise, resolve } = Promise.withResolvers<void>();
        arrived = resolve;
        await promise;
      }
      return groups[index] as (typeof groups)[number];
    },
    weights: () => groups.map(({ jobs }) => jobs.map(({ weight }) => weight)),
  };
}

describe('a lane of the group commit', () => {
  test('a lane begins at once, and collects what arrives meanwhile into one group, in order', async () => {
    const { commits, group, weights } = openLanes();
    const answers = [commits.submit(0, { weight: 1 })];
    const first = await group(0);
    for (const weight of [2, 3, 4]) answers.push(commits.submit(0, { weight }));
    assert.deepEqual(weights(), [[1]]);
    first.end();
    (await group(1)).end();
    assert.deepEqual(await Promise.all(answers), [1, 4, 9, 16]);
    assert.deepEqual(weights(), [[1], [2, 3, 4]]);
    assert.equal(commits.isIdle, true);
  });

  test('a lane keeps the bounds of a group, and commits a larger job alone', async () => {
    const { commits, group, weights } = openLanes({ queueBounds: { items: 100, bytes: 1000 } });
    const answers = [1, 6, 4, 3, 15].map((weight) => commits.submit(0, { weight }));
    for (let index = 0; index < 3; index++) (await group(index)).end();
    assert.deepEqual(await Promise.all(answers), [1, 36, 16, 9, 225]);
    assert.deepEqual(weights(), [[1, 6], [4, 3], [15]]);
  });

  test('a full lane refuses at once, and accepts again when there is room', async () => {
    const { commits, group } = openLanes();
    const first = commits.submit(0, { weight: 1 });
    const { end } = await group(0);
    const waiting = [10, 10].map((weight) => commits.submit(0, { weight }));
    await assert.rejects(commits.submit(0, { weight: 1 }), Busy);
    end();
    (await group(1)).end();
    (await group(2)).end();
    await Promise.all([first, ...waiting]);
    const later = commits.submit(0, { weight: 1 });
    (await group(3)).end();
    assert.equal(await later, 1);
  });

  test('lanes share the bound of the bytes that wait, and one where none waits accepts', async () => {
    const { commits, group } = openLanes({
      lanes: 2,
      queueBounds: { items: 100, bytes: 20 },
      weigh: ({ weight }) => ({ items: 1, bytes: weight }),
    });
    const { signal } = new AbortController();
    const gone = new AbortController();
    const begun = [0, 1].map((lane) => commits.submit(lane, { weight: 1 }, signal));
    const ends = [await group(0), await group(1)];
    const waiting = [commits.submit(0, { weight: 18 }), commits.submit(1, { weight: 3 })];
    await assert.rejects(commits.submit(1, { weight: 1 }), Busy);
    await assert.rejects(commits.submit(0, { weight: 1 }), Busy);
    for (const { end } of ends) end();
    const [more, most] = [await group(2), await group(3)];
    const leaves = commits.submit(1, { weight: 20 }, gone.signal);
    gone.abort(new Error('hung up'));
    await assert.rejects(leaves, /hung up/);
    waiting.push(commits.submit(0, { weight: 10 }), commits.submit(1, { weight: 5 }), commits.submit(1, { weight: 5 }));
    for (const { end } of [more, most]) end();
    for (const index of [4, 5]) (await group(index)).end();
    assert.deepEqual(await Promise.all([...begun, ...waiting]), [1, 1, 324, 9, 100, 25, 25]);
  });

  test('a cancelled job leaves the queue of a lane, and stays in a group that has begun', async () => {
    const { commits, group, weights } = openLanes();
    const gone = new AbortController();
    const begun = commits.submit(0, { weight: 1 }, gone.signal);
    const { end } = await group(0);
    const leaves = commits.submit(0, { weight: 2 }, gone.signal);
    const stays = commits.submit(0, { weight: 3 });
    gone.abort(new Error('hung up'));
    await assert.rejects(leaves, /hung up/);
    await assert.rejects(commits.submit(0, { weight: 4 }, gone.signal), /hung up/);
    end();
    (await group(1)).end();
    assert.deepEqual(await Promise.all([begun, stays]), [1, 9]);
    assert.deepEqual(weights(), [[1], [3]]);
  });

  test('a lane refuses a job that has waited too long before its group begins', async () => {
    const { commits, group } = openLanes({ maxWaitMs: -1 });
    await assert.rejects(commits.submit(0, { weight: 1 }), Busy);
    assert.equal(commits.isIdle, true);
    void group;
  });

  test('each job of a committed group gets its own result, also when some are refused', async () => {
    const { commits } = openLanes({
      commit: async (jobs) =>
        jobs.map(({ weight, bad }) =>
          bad ? { status: 'rejected', reason: new Error(`no ${weight}`) } : { status: 'fulfilled', value: weight },
        ),
    });
    const answers = await Promise.allSettled(
      [1, 2, 3].map((weight) => commits.submit(0, { weight, bad: weight === 2 })),
    );
    assert.deepEqual(
      answers.map((answer) => (answer.status === 'fulfilled' ? answer.value : String(answer.reason.message))),
      [1, 'no 2', 3],
    );
  });

  test('every job of a group fails when the store is busy, without attempts of parts', async () => {
    const { commits, group, weights } = openLanes();
    const answers = Promise.allSettled([1, 2].map((weight) => commits.submit(0, { weight })));
    (await group(0)).end(new Busy('away'));
    assert.deepEqual(
      (await answers).map((answer) => answer.status === 'rejected' && answer.reason instanceof Busy),
      [true, true],
    );
    assert.deepEqual(weights(), [[1, 2]]);
  });

  test('a large group begins behind one that is sent, a small one after it has ended', async () => {
    const { commits, group, weights } = openLanes();
    const answers = [commits.submit(0, { weight: 1 })];
    const first = await group(0);
    answers.push(commits.submit(0, { weight: 3 }));
    await eventLoopTurn();
    assert.deepEqual(weights(), [[1]], 'the first group is not sent yet');
    first.control.sent();
    const second = await group(1);
    second.control.sent();
    answers.push(commits.submit(0, { weight: 4 }));
    await eventLoopTurn();
    assert.deepEqual(weights(), [[1], [3]], 'two groups are in flight at most');
    first.end();
    const third = await group(2);
    third.control.sent();
    answers.push(commits.submit(0, { weight: 2 }));
    second.end();
    await eventLoopTurn();
    assert.deepEqual(weights(), [[1], [3], [4]], 'a small group waits');
    third.end();
    (await group(3)).end();
    assert.deepEqual(await Promise.all(answers), [1, 9, 16, 4]);
    assert.equal(commits.isIdle, true);
  });

  test('a group that asks for the lane alone waits for the one behind it, and none begins before it has ended', async () => {
    const { commits, group, weights } = openLanes();
    const answers = [commits.submit(0, { weight: 1 })];
    const first = await group(0);
    first.control.sent();
    answers.push(commits.submit(0, { weight: 3 }));
    const second = await group(1);
    second.control.sent();
    answers.push(commits.submit(0, { weight: 4 }));
    let isAlone = false;
    const alone = first.control.alone().then(() => (isAlone = true));
    await eventLoopTurn();
    assert.equal(isAlone, false);
    second.end();
    await alone;
    await eventLoopTurn();
    assert.deepEqual(weights(), [[1], [3]]);
    first.end();
    (await group(2)).end();
    assert.deepEqual(await Promise.all(answers), [1, 9, 16]);
  });

  test('of two groups that ask for the lane alone the older one goes first', async () => {
    const { commits, group } = openLanes();
    const answers = [commits.submit(0, { weight: 1 })];
    const first = await group(0);
    first.control.sent();
    answers.push(commits.submit(0, { weight: 3 }));
    const second = await group(1);
    const granted: string[] = [];
    const younger = second.control.alone().then(() => granted.push('younger'));
    const older = first.control.alone().then(() => granted.push('older'));
    await older;
    await eventLoopTurn();
    assert.deepEqual(granted, ['older']);
    first.end();
    await younger;
    second.end();
    assert.deepEqual(await Promise.all(answers), [1, 9]);
    assert.deepEqual(granted, ['older', 'younger']);
  });

  test('results of a large group are handed out in several turns, while the next group runs', async () => {
    const { commits, group, weights } = openLanes({
      groupBounds: { items: 4000, bytes: 1000 },
      queueBounds: { items: 5000, bytes: 1000 },
    });
    const settled: number[] = [];
    const submit = (weight: number, index: number) =>
      commits.submit(0, { weight }).then((answer) => {
        settled.push(index);
        return answer;
      });
    const answers = [1600, 401, 1999].map(submit);
    const first = await group(0);
    answers.push(submit(2, 3));
    first.end();
    await eventLoopTurn();
    assert.deepEqual(settled, [0]);
    const second = await group(1);
    const closed = commits.close();
    await eventLoopTurn();
    await eventLoopTurn();
    assert.deepEqual(settled, [0, 1, 2]);
    assert.equal(commits.load().items, 2);
    second.end();
    await closed;
    assert.deepEqual(
      await Promise.all(answers),
      [1600, 401, 1999, 2].map((weight) => weight ** 2),
    );
    assert.deepEqual(settled, [0, 1, 2, 3]);
    assert.deepEqual(weights(), [[1600, 401, 1999], [2]]);
  });

  test('a lane that closes finishes its jobs and refuses new ones', async () => {
    const { commits, group } = openLanes();
    const answers = [1, 2].map((weight) => commits.submit(0, { weight }));
    const closing = commits.close();
    await assert.rejects(commits.submit(0, { weight: 3 }), Busy);
    (await group(0)).end();
    await closing;
    assert.deepEqual(await Promise.all(answers), [1, 4]);
  });
});

test('any jobs in any lanes get their own answers, groups that ask for it are alone, and bad jobs affect no others', async (context) => {
  const jobs = fc.array(
    fc.record({
      lane: fc.nat({ max: 2 }),
      weight: fc.nat({ max: 12 }),
      bad: fc.boolean(),
      gone: fc.boolean(),
      isSent: fc.boolean(),
      alone: fc.boolean(),
    }),
    { maxLength: 40 },
  );
  await fc.assert(
    fc.asyncProperty(jobs, async (input) => {
      type Given = (typeof input)[number];
      const committed: Given[] = [];
      /** Per lane: groups in flight that do not wait for others. */
      const active = [0, 0, 0];
      const change = (lane: number, by: number) => {
        active[lane] = (active[lane] ?? 0) + by;
      };
      const { commits } = openLanes({
        lanes: 3,
        queueBounds: { items: 10_000, bytes: 10_000 },
        commit: async (given, control) => {
          const group = given as readonly Given[];
          const { lane } = control;
          change(lane, 1);
          try {
            assert.ok((active[lane] ?? 0) <= 2);
            await eventLoopTurn();
            if (group[0]?.isSent) control.sent();
            await eventLoopTurn();
            if (group[0]?.alone) {
              change(lane, -1);
              await control.alone();
              change(lane, 1);
              assert.equal(active[lane], 1);
              await eventLoopTurn();
              assert.equal(active[lane], 1);
            }
            if (group.some((job) => job.bad)) throw new Error('spoilt');
            committed.push(...group);
            return done(group);
          } finally {
            change(lane, -1);
          }
        },
      });
      const gone = new AbortController();
      const answers = input.map((job) => commits.submit(job.lane, job, job.gone ? gone.signal : undefined));
      gone.abort(new Error('hung up'));
      const settled = await Promise.allSettled(answers);
      for (const [index, job] of input.entries()) {
        const answer = settled[index];
        if (job.gone) assert.equal(answer?.status === 'rejected' && answer.reason.message, 'hung up');
        else if (job.bad) assert.equal(answer?.status === 'rejected' && answer.reason.message, 'spoilt');
        else assert.equal(answer?.status === 'fulfilled' && answer.value, job.weight ** 2);
      }
      const isStored = (job: Given) => !job.bad && !job.gone;
      assert.deepEqual(new Set(committed), new Set(input.filter(isStored)));
      assert.equal(committed.length, input.filter(isStored).length);
      for (const lane of [0, 1, 2]) {
        // Only bad jobs and groups that ask for the lane alone let the group behind them pass.
        const given = input.filter((job) => job.lane === lane);
        if (given.some((job) => job.bad || job.alone)) continue;
        assert.deepEqual(
          committed.filter((job) => job.lane === lane),
          given.filter(isStored),
        );
      }
      await commits.close();
      assert.equal(commits.isIdle, true);
    }),
    { seed: seedOf(context), numRuns: 300 },
  );
});
