import { setImmediate } from 'node:timers/promises';

/** How much of a bound something takes. The room does not know of what. */
export interface Cost {
  readonly items: number;
  readonly bytes: number;
}

export interface GroupCommitOptions<Job, Result> {
  readonly lanes: number;
  /** Of one group; a job that is larger goes alone. */
  readonly groupBounds: Cost;
  /** Of all that waits in one lane. */
  readonly queueBounds: Cost;
  /** A job that has waited longer is refused before it is begun: its caller has most likely given up. */
  readonly maxWaitMs: number;
  readonly weigh: (job: Job) => Cost;
  /** Commits jobs together: one outcome a job, in order. Rejects when none of them went through. */
  readonly commit: (jobs: readonly Job[]) => Promise<readonly PromiseSettledResult<Result>[]>;
  /** Whether a group that was rejected so should go again in parts, to find the job that spoils it; if not, each job is told so. */
  readonly shouldBisect: (error: unknown) => boolean;
  /** What a job is refused with that finds the lane full, or waits too long, or comes after `close`. */
  readonly refuse: (why: string) => Error;
  /** Told of each group that ended. */
  readonly onGroup?: (group: { items: number; jobs: number; waitMs: number; commitMs: number }) => void;
  /** Puts the commit of a group into the traces of the calls that share it. */
  readonly trace?: GroupTrace | undefined;
}

/** What traces need of a group: where each job came from, and to stand around its commit. */
export interface GroupTrace {
  /** What the job that is handed in now belongs to. */
  origin(): unknown;
  around<T>(
    origins: readonly unknown[],
    group: { readonly jobs: number; readonly items: number },
    work: () => Promise<T>,
  ): Promise<T>;
}

/** Commits jobs in groups: those that arrive while a commit is under way share the next one. */
export interface GroupCommit<Job, Result> {
  /**
   * Hands a job in and waits for its own outcome. A job whose signal is aborted before its group is begun leaves the queue and rejects with the
   * signal's reason; later it takes its course.
   */
  submit(lane: number, job: Job, signal?: AbortSignal): Promise<Result>;
  /** Whether nothing waits and nothing is under way. */
  readonly isIdle: boolean;
  /** What waits in each lane, and for how long its oldest job has. */
  waiting(): readonly { readonly items: number; readonly jobs: number; readonly oldestMs: number }[];
  /** Refuses what comes from now on, and waits for what is here. */
  close(): Promise<void>;
}

/**
 * A lane has one group under way at most. The size of a group sets itself: it is what came in while the last one was committed, so that an idle lane adds
 * no wait and a busy one pays for a commit once a group. (Waiting on purpose was measured: 2 ms more of it saved no CPU worth having.)
 */
export function createGroupCommit<Job, Result>(options: GroupCommitOptions<Job, Result>): GroupCommit<Job, Result> {
  const lanes = Array.from({ length: options.lanes }, () => new Lane(options));
  let closed = false;
  return {
    async submit(lane, job, signal) {
      const chosen = lanes[lane];
      if (chosen === undefined) throw new RangeError(`lane ${lane} of ${lanes.length}`);
      if (closed) throw options.refuse('the service is stopping');
      signal?.throwIfAborted();
      return await chosen.submit(job, signal);
    },
    get isIdle() {
      return lanes.every((lane) => lane.isIdle);
    },
    waiting: () => lanes.map((lane) => lane.waiting()),
    async close() {
      closed = true;
      await Promise.all(lanes.map((lane) => lane.idle()));
    },
  };
}

/** A job in a lane; `cancelled` when its caller did not wait for its group. */
interface Waiting<Job, Result> {
  readonly job: Job;
  readonly cost: Cost;
  readonly since: number;
  readonly origin: unknown;
  /** Its group is begun: from here on it takes its course. */
  readonly begin: () => void;
  readonly settle: (result: PromiseSettledResult<Result>) => void;
  cancelled: boolean;
}

class Lane<Job, Result> {
  readonly #options: GroupCommitOptions<Job, Result>;
  #queue: Waiting<Job, Result>[] = [];
  #queued: Cost = nothing;
  #running: Promise<void> | undefined;

  constructor(options: GroupCommitOptions<Job, Result>) {
    this.#options = options;
  }

  get isIdle(): boolean {
    return this.#running === undefined;
  }

  async idle(): Promise<void> {
    await this.#running;
  }

  waiting(): { items: number; jobs: number; oldestMs: number } {
    const here = this.#queue.filter((each) => !each.cancelled);
    const [oldest] = here;
    return {
      items: this.#queued.items,
      jobs: here.length,
      oldestMs: oldest === undefined ? 0 : performance.now() - oldest.since,
    };
  }

  submit(job: Job, signal: AbortSignal | undefined): Promise<Result> {
    const cost = this.#options.weigh(job);
    const { queueBounds, refuse } = this.#options;
    if (this.#queue.length > 0 && !fits(plus(this.#queued, cost), queueBounds))
      return Promise.reject(refuse(`more is waiting than is stored in good time (${this.#queued.items} messages)`));
    return new Promise((resolve, reject) => {
      const leave = () => {
        waiting.cancelled = true;
        this.#queued = minus(this.#queued, cost);
        reject(signal?.reason);
      };
      const waiting: Waiting<Job, Result> = {
        job,
        cost: cost,
        since: performance.now(),
        origin: this.#options.trace?.origin(),
        begin: () => signal?.removeEventListener('abort', leave),
        settle: (result) => {
          if (result.status === 'fulfilled') resolve(result.value);
          else reject(result.reason);
        },
        cancelled: false,
      };
      signal?.addEventListener('abort', leave, { once: true });
      this.#queue.push(waiting);
      this.#queued = plus(this.#queued, cost);
      this.#running ??= this.#run();
    });
  }

  /** Until nothing waits any more. It never rejects: what goes wrong belongs to the jobs. */
  async #run(): Promise<void> {
    // Jobs whose requests have arrived already are submitted before the event loop looks for new ones: let them come together.
    await setImmediate();
    for (let group = this.#take(); group.length > 0; group = this.#take()) {
      const started = performance.now();
      const { onGroup, trace } = this.#options;
      const jobs = group.length;
      const items = group.reduce((sum, each) => sum + each.cost.items, 0);
      if (trace === undefined) await this.#commit(group);
      else {
        const origins = group.map((each) => each.origin);
        await trace.around(origins, { jobs, items }, () => this.#commit(group));
      }
      onGroup?.({
        jobs,
        items,
        waitMs: started - (group[0]?.since ?? started),
        commitMs: performance.now() - started,
      });
    }
    this.#running = undefined;
  }

  /** The next group, in the order of arrival; without those who have left or waited too long. */
  #take(): Waiting<Job, Result>[] {
    const { groupBounds, maxWaitMs, refuse } = this.#options;
    const group: Waiting<Job, Result>[] = [];
    const oldest = performance.now() - maxWaitMs;
    let sum = nothing;
    let taken = 0;
    for (const waiting of this.#queue) {
      const grown = plus(sum, waiting.cost);
      if (!waiting.cancelled && group.length > 0 && !fits(grown, groupBounds)) break;
      taken++;
      if (waiting.cancelled) continue;
      this.#queued = minus(this.#queued, waiting.cost);
      waiting.begin();
      if (waiting.since < oldest) {
        waiting.settle({ status: 'rejected', reason: refuse(`it has waited for ${maxWaitMs} ms`) });
        continue;
      }
      sum = grown;
      group.push(waiting);
    }
    this.#queue.splice(0, taken);
    return group;
  }

  /** Commits a group; one that is spoilt goes again in halves, so that n jobs pay for one bad one with about 2 log n more commits. */
  async #commit(group: readonly Waiting<Job, Result>[]): Promise<void> {
    let results: readonly PromiseSettledResult<Result>[];
    try {
      results = await this.#options.commit(group.map((each) => each.job));
      if (results.length !== group.length) throw new Error(`${results.length} outcomes for ${group.length} jobs`);
    } catch (reason) {
      if (group.length > 1 && this.#options.shouldBisect(reason)) {
        const half = group.length >> 1;
        await this.#commit(group.slice(0, half));
        await this.#commit(group.slice(half));
        return;
      }
      results = group.map(() => ({ status: 'rejected', reason }));
    }
    for (const [index, waiting] of group.entries()) {
      const result = results[index];
      if (result !== undefined) waiting.settle(result);
    }
  }
}

const nothing: Cost = { items: 0, bytes: 0 };

function plus(a: Cost, b: Cost): Cost {
  return { items: a.items + b.items, bytes: a.bytes + b.bytes };
}

function minus(a: Cost, b: Cost): Cost {
  return { items: a.items - b.items, bytes: a.bytes - b.bytes };
}

function fits(cost: Cost, bounds: Cost): boolean {
  return cost.items <= bounds.items && cost.bytes <= bounds.bytes;
}
