import type { Cancellation } from '../messages/cancellation.ts';

/** What a job takes of a bound. Group commit does not know what items are. */
export interface Cost {
  readonly items: number;
  readonly bytes: number;
}

export interface GroupCommitOptions<Job, Result> {
  readonly lanes: number;
  /** Bounds of one group. A larger job is a group by itself. */
  readonly groupBounds: Cost;
  /**
   * Jobs that wait for this much begin a group behind one that is in flight. Fewer wait for its
   * end, and so share a commit with what arrives until then.
   */
  readonly pipelineFrom: Cost;
  /**
   * Bounds of jobs that wait: items in one lane, bytes in all lanes together. A lane where none
   * waits takes one more, so that the bytes of another lane do not stop it.
   */
  readonly queueBounds: Cost;
  /**
   * A job that has waited longer is refused before its group starts: its caller has most likely
   * given up.
   */
  readonly maxWaitMs: number;
  readonly weigh: (job: Job) => Cost;
  /**
   * Commits jobs together: one result per job, in order. Rejects when none of them was committed.
   */
  readonly commit: (jobs: readonly Job[], control: CommitControl) => Promise<readonly PromiseSettledResult<Result>[]>;
  /**
   * Whether a group that was rejected with this error is retried in halves, to find the job that
   * causes it.
   */
  readonly shouldBisect: (error: unknown) => boolean;
  /** The error of a job that finds its lane full, waits too long, or is submitted after `close`. */
  readonly refuse: (why: string) => Error;
  /** Called after each group. */
  readonly onGroup?: (group: { items: number; jobs: number; waitMs: number; commitMs: number }) => void;
  /** Adds the commit of a group to the traces of the calls that share it. */
  readonly trace?: GroupTrace | undefined;
}

/** How a commit shares its lane with the groups before and after it. */
export interface CommitControl {
  /** The lane, from 0. */
  readonly lane: number;
  /** Lets the next group begin: this one is sent, and the next one would be sent behind it. */
  sent(): void;
  /**
   * Waits for the other groups of the lane. None begins before this one has ended. Of several
   * groups that wait for each other the oldest goes first.
   */
  alone(): Promise<void>;
}

/** What traces need: the origin of each job, and a wrapper around the commit. */
export interface GroupTrace {
  /** The call that the job being submitted belongs to. */
  origin(): unknown;
  around<T>(
    origins: readonly unknown[],
    group: { readonly jobs: number; readonly items: number },
    work: () => Promise<T>,
  ): Promise<T>;
}

/** Commits jobs in groups: jobs that arrive during a commit share the next one. */
export interface GroupCommit<Job, Result> {
  /**
   * Submits a job and waits for its own result. A job whose signal aborts before its group starts
   * leaves the queue and rejects with the signal's reason; later aborts have no effect.
   */
  submit(lane: number, job: Job, signal?: Cancellation): Promise<Result>;
  /** Whether no job waits and no group is being committed. */
  readonly isIdle: boolean;
  /** All jobs without a result, and for how long a lane with groups in flight has ended none. */
  load(): Cost & { readonly committingMs: number };
  /** Per lane: the jobs that wait, and how long the oldest has waited. */
  waiting(): readonly { readonly items: number; readonly jobs: number; readonly oldestMs: number }[];
  /** Refuses new jobs and waits for those submitted. */
  close(): Promise<void>;
}

/**
 * Items of committed jobs, and jobs, whose results are handed out in one turn of the event loop,
 * together with the answers to their calls. At twice the capacity p99 of the stored calls fell from
 * 1.5 to 1.3 s, and of the refused ones from 240 to 170 ms. With 500 items the stored ones waited
 * longer, since the requests that arrive between two slices are read first.
 */
const sliceItems = 2000;
const sliceJobs = 512;

/** Groups of a lane in flight: one that runs, and one that is sent or prepared behind it. */
const groupsInFlight = 2;

/**
 * Creates lanes. A group is what arrived during the previous commit: an idle lane adds no wait, a
 * busy one pays for one commit per group. A deliberate wait of 2 ms saved no measurable CPU.
 *
 * Groups of a lane are committed in order, with one exception: one that needs the lane alone
 * (`CommitControl.alone`) is committed after the group that was sent behind it.
 */
export function createGroupCommit<Job, Result>(options: GroupCommitOptions<Job, Result>): GroupCommit<Job, Result> {
  const shared: Shared = { turns: new Turns(), queuedBytes: 0 };
  const lanes = Array.from({ length: options.lanes }, (_, index) => new Lane(options, shared, index));
  let closed = false;
  return {
    submit(lane, job, signal) {
      const chosen = lanes[lane];
      if (chosen === undefined) return Promise.reject(new RangeError(`lane ${lane} of ${lanes.length}`));
      if (closed) return Promise.reject(options.refuse('the service is stopping'));
      if (signal?.aborted) return Promise.reject(signal.reason);
      return chosen.submit(job, signal);
    },
    get isIdle() {
      return lanes.every((lane) => lane.isIdle);
    },
    load() {
      let items = 0;
      let bytes = 0;
      let committingMs = 0;
      for (const lane of lanes) {
        items += lane.queued.items + lane.committing.items;
        bytes += lane.queued.bytes + lane.committing.bytes;
        committingMs = Math.max(committingMs, lane.committingMs());
      }
      return { items, bytes, committingMs };
    },
    waiting: () => lanes.map((lane) => lane.waiting()),
    async close() {
      closed = true;
      await Promise.all(lanes.map((lane) => lane.idle()));
    },
  };
}

/** Gives each of the lanes' slices a turn of the event loop of its own, in order. */
class Turns {
  readonly #waiting: (() => void)[] = [];

  next(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#waiting.push(resolve) === 1) setImmediate(() => this.#give());
    });
  }

  #give(): void {
    const [resolve] = this.#waiting;
    resolve?.();
    this.#waiting.shift();
    if (this.#waiting.length > 0) setImmediate(() => this.#give());
  }
}

/** What all lanes share. */
interface Shared {
  readonly turns: Turns;
  /** Bytes of the jobs that wait. */
  queuedBytes: number;
}

/** A job in a lane; `cancelled` when its signal aborted before its group started. */
interface Waiting<Job, Result> {
  readonly job: Job;
  readonly cost: Cost;
  readonly since: number;
  readonly origin: unknown;
  /** Called when its group starts: aborts have no effect from here on. */
  readonly begin: () => void;
  readonly settle: (result: PromiseSettledResult<Result>) => void;
  cancelled: boolean;
}

/** A group in flight. */
interface Group {
  readonly since: number;
  isSent: boolean;
  /** Set while it waits for the other groups of its lane, or has the lane alone. */
  alone: PromiseWithResolvers<void> | undefined;
}

class Lane<Job, Result> {
  readonly #options: GroupCommitOptions<Job, Result>;
  readonly #shared: Shared;
  readonly #index: number;
  #queue: Waiting<Job, Result>[] = [];
  #queued: Cost = nothing;
  #committing: Cost = nothing;
  /** When the last group ended. */
  #endedAt = 0;
  /** In the order in which they began. */
  readonly #inFlight = new Set<Group>();
  #isScheduled = false;
  /** Committed groups, or halves of them, whose results are being handed out. */
  #handingOut = 0;
  #idle: PromiseWithResolvers<void> | undefined;

  constructor(options: GroupCommitOptions<Job, Result>, shared: Shared, index: number) {
    this.#options = options;
    this.#shared = shared;
    this.#index = index;
  }

  get isIdle(): boolean {
    return this.#inFlight.size === 0 && !this.#isScheduled && this.#handingOut === 0;
  }

  get queued(): Cost {
    return this.#queued;
  }

  get committing(): Cost {
    return this.#committing;
  }

  /** For how long the oldest group in flight has been committing alone or first in the lane. */
  committingMs(): number {
    for (const { since } of this.#inFlight) return performance.now() - Math.max(since, this.#endedAt);
    return 0;
  }

  async idle(): Promise<void> {
    if (this.isIdle) return;
    this.#idle ??= Promise.withResolvers<void>();
    await this.#idle.promise;
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

  submit(job: Job, signal: Cancellation | undefined): Promise<Result> {
    const cost = this.#options.weigh(job);
    const { queueBounds, refuse } = this.#options;
    const grown = { items: this.#queued.items + cost.items, bytes: this.#shared.queuedBytes + cost.bytes };
    if (this.#queue.length > 0 && !fits(grown, queueBounds))
      return Promise.reject(refuse(`too many messages are waiting (${this.#queued.items})`));
    return new Promise((resolve, reject) => {
      const leave = () => {
        waiting.cancelled = true;
        this.#leaveQueue(cost);
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
      this.#shared.queuedBytes += cost.bytes;
      this.#schedule();
    });
  }

  #leaveQueue(cost: Cost): void {
    this.#queued = minus(this.#queued, cost);
    this.#shared.queuedBytes -= cost.bytes;
  }

  /**
   * Begins the next group soon, if one may begin. Requests that have arrived already submit their
   * jobs until then, and share it.
   */
  #schedule(): void {
    if (this.#isScheduled || !this.#mayBegin()) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      this.#begin();
    });
  }

  /** Whether the jobs that wait may begin a group now. */
  #mayBegin(): boolean {
    if (this.#inFlight.size === 0) return true;
    if (this.#inFlight.size === groupsInFlight) return false;
    for (const each of this.#inFlight) if (!each.isSent || each.alone !== undefined) return false;
    const { pipelineFrom } = this.#options;
    return this.#queued.items >= pipelineFrom.items || this.#queued.bytes >= pipelineFrom.bytes;
  }

  /** Begins groups as long as one may begin. */
  #begin(): void {
    while (this.#queue.length > 0 && this.#mayBegin()) {
      const jobs = this.#take();
      if (jobs.length > 0) void this.#run(jobs);
    }
    this.#endIfIdle();
  }

  /** Commits one group. Never rejects: errors are results of the jobs. */
  async #run(jobs: readonly Waiting<Job, Result>[]): Promise<void> {
    const started = performance.now();
    const group: Group = { since: started, isSent: false, alone: undefined };
    this.#inFlight.add(group);
    const cost = jobs.reduce((sum, each) => plus(sum, each.cost), nothing);
    this.#committing = plus(this.#committing, cost);
    const control: CommitControl = {
      lane: this.#index,
      sent: () => {
        if (group.isSent) return;
        group.isSent = true;
        this.#schedule();
      },
      alone: async () => {
        group.alone ??= Promise.withResolvers<void>();
        this.#grantAlone();
        await group.alone.promise;
      },
    };
    const { onGroup, trace } = this.#options;
    const counts = { jobs: jobs.length, items: cost.items };
    if (trace === undefined) await this.#commit(jobs, control);
    else {
      const origins = jobs.map((each) => each.origin);
      await trace.around(origins, counts, () => this.#commit(jobs, control));
    }
    this.#inFlight.delete(group);
    this.#endedAt = performance.now();
    onGroup?.({
      ...counts,
      waitMs: started - (jobs[0]?.since ?? started),
      commitMs: this.#endedAt - started,
    });
    this.#grantAlone();
    this.#begin();
  }

  /** Gives the lane to the oldest group when every group in flight waits for that. */
  #grantAlone(): void {
    const groups = [...this.#inFlight];
    if (groups.every((each) => each.alone !== undefined)) groups[0]?.alone?.resolve();
  }

  /**
   * Takes the next group, in order of arrival, without cancelled jobs and those that waited too
   * long.
   */
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
      this.#leaveQueue(waiting.cost);
      waiting.begin();
      if (waiting.since < oldest) {
        waiting.settle({ status: 'rejected', reason: refuse(`it waited longer than ${maxWaitMs} ms`) });
        continue;
      }
      sum = grown;
      group.push(waiting);
    }
    this.#queue.splice(0, taken);
    return group;
  }

  /**
   * Commits a group. One rejected for a single job is retried in halves, alone: about 2 log n more
   * commits find it among n.
   */
  async #commit(group: readonly Waiting<Job, Result>[], control: CommitControl): Promise<void> {
    let results: readonly PromiseSettledResult<Result>[];
    try {
      results = await this.#options.commit(
        group.map((each) => each.job),
        control,
      );
      if (results.length !== group.length) throw new Error(`${results.length} outcomes for ${group.length} jobs`);
    } catch (reason) {
      if (group.length > 1 && this.#options.shouldBisect(reason)) {
        const half = group.length >> 1;
        await control.alone();
        await this.#commit(group.slice(0, half), control);
        await this.#commit(group.slice(half), control);
        return;
      }
      results = group.map(() => ({ status: 'rejected', reason }));
    }
    void this.#handOut(group, results);
  }

  /**
   * Hands out results, in slices: the calls they belong to continue in the same turn of the event
   * loop. The next group begins meanwhile.
   */
  async #handOut(
    group: readonly Waiting<Job, Result>[],
    results: readonly PromiseSettledResult<Result>[],
  ): Promise<void> {
    this.#handingOut++;
    let items = 0;
    let jobs = 0;
    for (const [index, { cost, settle }] of group.entries()) {
      if (jobs > 0 && (jobs === sliceJobs || items + cost.items > sliceItems)) {
        await this.#shared.turns.next();
        items = 0;
        jobs = 0;
      }
      items += cost.items;
      jobs++;
      this.#committing = minus(this.#committing, cost);
      const result = results[index];
      if (result !== undefined) settle(result);
    }
    this.#handingOut--;
    this.#endIfIdle();
  }

  #endIfIdle(): void {
    if (!this.isIdle) return;
    this.#idle?.resolve();
    this.#idle = undefined;
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
