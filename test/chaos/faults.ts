// The faults of a chaos run. Each ends by itself and leaves the world as it found it.
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { type Instance, type World, withClient } from './world.ts';

/** The random choices of a fault. */
export interface Dice {
  /** A whole number from 0 to below a bound. */
  pick(bound: number): number;
  /** Milliseconds between two bounds. */
  ms(least: number, most: number): number;
}

export interface Fault {
  readonly name: string;
  /** Two faults at the same time are of different kinds. */
  readonly kind: 'process' | 'network' | 'database';
  run(world: World, dice: Dice): Promise<void>;
}

const one = (world: World, dice: Dice): Instance => {
  const instance = world.instances[dice.pick(world.instances.length)];
  if (instance === undefined) throw new Error('no instance');
  return instance;
};
const named = (world: World, name: string): Instance => {
  const instance = world.instances.find((each) => each.name === name);
  if (instance === undefined) throw new Error(`no instance ${name}`);
  return instance;
};

async function pause(pid: number | undefined, ms: number): Promise<void> {
  if (pid === undefined) return;
  process.kill(pid, 'SIGSTOP');
  try {
    await delay(ms);
  } finally {
    process.kill(pid, 'SIGCONT');
  }
}

/** Applies a fault of the network to the proxy of one instance or of all of them, for a time. */
const network = (
  name: string,
  apply: (proxy: Instance['proxy'], dice: Dice) => void,
  [leastMs, mostMs]: readonly [number, number] = [500, 3000],
): Fault => ({
  name,
  kind: 'network',
  async run(world, dice) {
    const targets = dice.pick(3) === 0 ? world.instances : [one(world, dice)];
    try {
      for (const { proxy } of targets) apply(proxy, dice);
      await delay(dice.ms(leastMs, mostMs));
    } finally {
      for (const { proxy } of targets) proxy.resume();
    }
  },
});

const restartDatabase = (name: string, signal: 'SIGINT' | 'SIGQUIT' | 'SIGKILL'): Fault => ({
  name,
  kind: 'database',
  run: (world, dice) => world.restartDatabase(signal, dice.ms(0, 1500)),
});

/** Holds locks of the database for a time. */
const hold = (name: string, statement: (dice: Dice) => string): Fault => ({
  name,
  kind: 'database',
  run: (world, dice) =>
    withClient(world.url, async (client) => {
      await client.query('begin');
      await client.query(statement(dice));
      await delay(dice.ms(1000, 3000));
      await client.query('rollback');
    }),
});

export const faults: readonly Fault[] = [
  {
    name: 'kill -9 of an instance',
    kind: 'process',
    run: async (world, dice) => void (await one(world, dice).restart('SIGKILL', dice.ms(0, 1000))),
  },
  {
    name: 'kill -9 of a worker process',
    kind: 'process',
    async run(world, dice) {
      const [, ...workers] = named(world, 'workers').pids();
      const pid = workers[dice.pick(workers.length)];
      if (pid !== undefined) process.kill(pid, 'SIGKILL');
      await delay(dice.ms(500, 1500));
    },
  },
  {
    name: 'SIGTERM of an instance',
    kind: 'process',
    async run(world, dice) {
      const instance = one(world, dice);
      const code = await instance.restart('SIGTERM', dice.ms(0, 500));
      if (code !== 0) throw new Error(`${instance.name} ended with ${code} after SIGTERM`);
    },
  },
  {
    name: 'SIGSTOP of an instance',
    kind: 'process',
    run: (world, dice) => pause(one(world, dice).pids()[0], dice.ms(1000, 5000)),
  },
  {
    name: 'SIGSTOP of a worker process',
    kind: 'process',
    run: (world, dice) => pause(named(world, 'workers').pids()[1], dice.ms(1000, 5000)),
  },
  {
    name: 'wall clock of an instance jumps',
    kind: 'process',
    async run(world, dice) {
      world.shiftClock(dice.ms(-72, 72) * 3_600_000);
      await delay(dice.ms(500, 1500));
    },
  },
  network('connections are cut', (proxy) => proxy.cut(), [200, 500]),
  network('new connections are cut', (proxy) => {
    proxy.drop();
    proxy.cut();
  }),
  network('connections freeze', (proxy, dice) => {
    proxy.stall((['to-server', 'to-client', 'both'] as const)[dice.pick(3)] ?? 'both');
  }),
  network('connections are forgotten', (proxy) => proxy.forget()),
  network('connections are slow', (proxy, dice) => proxy.delay(dice.ms(10, 100))),
  network('a commit is cut', (proxy, dice) => proxy.cutNextCommit(dice.pick(2) === 0 ? 'before' : 'after')),
  network('a commit is swallowed', (proxy, dice) => proxy.stallNextCommit(dice.pick(2) === 0 ? 'before' : 'after')),
  restartDatabase('database restarts, fast shutdown', 'SIGINT'),
  restartDatabase('database restarts, immediate shutdown', 'SIGQUIT'),
  restartDatabase('database restarts, kill -9', 'SIGKILL'),
  hold(
    'row locks are held',
    (dice) =>
      `select from sendbatch.channel_head where channel_key % 4 = ${dice.pick(4)} order by channel_key for update`,
  ),
  hold('a table is locked and calls fill the pools', () => 'lock table sendbatch.message in access exclusive mode'),
  {
    name: 'no connections are left',
    kind: 'database',
    async run(world, dice) {
      const hogs: pg.Client[] = [];
      try {
        for (let isFull = false; !isFull && hogs.length < 200; ) {
          const hog = new pg.Client({ connectionString: world.url });
          hog.on('error', () => {});
          isFull = await hog.connect().then(
            () => false,
            () => true,
          );
          if (!isFull) hogs.push(hog);
        }
        for (const { proxy } of world.instances) proxy.cut();
        await delay(dice.ms(1000, 2500));
      } finally {
        await Promise.all(hogs.map((hog) => hog.end().catch(() => {})));
      }
    },
  },
];
