import { setImmediate } from 'node:timers/promises';
import { limits } from '../limits.ts';
import type { PreparedMessage } from '../messages/message.ts';
import { bytesOf } from '../messages/page.ts';
import type { Refusal } from '../messages/service-error.ts';
import { invalidField, ServiceError } from '../messages/service-error.ts';
import { orBusy } from '../messages/store-busy.ts';
import { FairScheduler } from '../overload/fair-scheduler.ts';
import { ExecutionTimeout, runWithTimeout, threadCpuMs } from '../overload/watchdog.ts';
import type { Db } from '../postgres/schema.ts';
import type { ModerationHook } from './hook.ts';
import {
  deleteRule,
  type FlaggedMessage,
  insertRule,
  listFlagged,
  listRules,
  readRulesVersion,
  removeFlags,
  updateRule,
} from './rules.sql.ts';
import { contentRefused, contentTooSlow, type Judgement, measurePattern, type Rule } from './rules.ts';
import { type ModerationThread, startThread } from './thread.ts';

/** What moderation makes of messages: the same number in the same order, masked or marked where a rule says so. */
export interface ModerationResult {
  readonly messages: readonly PreparedMessage[];
  /** Of those messages. */
  readonly refused: ReadonlyMap<PreparedMessage, Refusal>;
}

/** Judges messages. `caller`: whose share of the process's moderation it takes. */
export type Moderate = (
  messages: readonly PreparedMessage[],
  call: { readonly caller: string; readonly signal?: AbortSignal | undefined },
) => Promise<ModerationResult>;

/** Rules, flagged messages, and the judge of what is sent. */
export interface Moderation {
  readonly moderate: Moderate;
  /** Reads the rules again if they have changed. */
  reload(): Promise<void>;
  create(rule: Omit<Rule, 'ruleId'>): Promise<Rule>;
  replace(rule: Rule): Promise<Rule>;
  remove(ruleId: number): Promise<void>;
  list(): Promise<Rule[]>;
  listFlagged(after: number, limit: number): Promise<FlaggedMessage[]>;
  review(messageIds: readonly number[]): Promise<void>;
  close(): Promise<void>;
}

export interface ModerationOptions {
  readonly scheduler?: FairScheduler;
  /** Milliseconds of the thread that one message may take. */
  readonly messageMs?: number;
  readonly now?: () => number;
}

/**
 * `hook`: asked about each batch after the rules. The rules run in a thread of their own: what takes long there holds up its own call, and by turns the calls
 * that are moderated, and never the event loop.
 */
export function createModeration(
  db: Db,
  hook: ModerationHook | undefined,
  { scheduler = new FairScheduler(), messageMs = defaultMessageMs, now = Date.now }: ModerationOptions = {},
): Moderation {
  let version = -1;
  let thread: ModerationThread | undefined;
  const load = async () => {
    const current = await readRulesVersion(db);
    if (current === version && (thread === undefined || thread.isAlive)) return;
    // Read after the version: rules that are newer than it are read once more, and none is missed.
    const rules = await listRules(db);
    const previous = thread;
    // The old rules hold until the new ones are compiled.
    thread = rules.length === 0 ? undefined : await startThread(rules, () => void reload().catch(() => {}));
    version = current;
    await previous?.close();
  };
  /** One after the other: a thread is opened once per change. */
  let loading: Promise<unknown> = Promise.resolve();
  const reload = (): Promise<void> => {
    const next = loading.then(load);
    loading = next.catch(() => {});
    return next;
  };
  const afterChange = async <T>(change: () => Promise<T>): Promise<T> =>
    await orBusy(async () => {
      const result = await change();
      await reload();
      return result;
    });
  return {
    async moderate(messages, call) {
      if (thread === undefined && hook === undefined) return { messages, refused: new Map() };
      const judged = await judgeMessages({ threadOf: () => thread, scheduler: scheduler, messageMs }, messages, call);
      return hook === undefined ? judged : await askHook(hook, judged);
    },
    reload: () => orBusy(reload),
    async create(rule) {
      await assertValidRule(rule, await orBusy(() => listRules(db)));
      return await afterChange(async () => ({ ...rule, ruleId: await insertRule(db, rule) }));
    },
    async replace(rule) {
      const others = (await orBusy(() => listRules(db))).filter(({ ruleId }) => ruleId !== rule.ruleId);
      await assertValidRule(rule, others);
      return await afterChange(async () => {
        if (!(await updateRule(db, rule))) throw ruleNotFound(rule.ruleId);
        return rule;
      });
    },
    remove: (ruleId) =>
      afterChange(async () => {
        if (!(await deleteRule(db, ruleId))) throw ruleNotFound(ruleId);
      }),
    list: () => orBusy(() => listRules(db)),
    listFlagged: (after, limit) => orBusy(() => listFlagged(db, after, limit, now())),
    review: (messageIds) => orBusy(() => removeFlags(db, messageIds)),
    async close() {
      await loading;
      await thread?.close();
    },
  };
}

/** Milliseconds of the thread that one message may take. A plain pattern takes 7 ms for the largest payload, on the prototype. */
const defaultMessageMs = 500;
/** Milliseconds after which another call has its turn. */
const sliceMs = 20;
/** Milliseconds of a batch, after which the rest is to be sent again. */
const batchMs = 10_000;
/** Bytes and messages that the thread gets at once. */
const bytesPerRequest = limits.payloadBytes;
const messagesPerRequest = 200;
/** Bytes of payloads from which a call is known to take long. */
const longBytes = 16 * 1024;
const retryAfterMs = 1000;

/** What is judged once per batch: the same payload to the same kind of channel. A broadcast is one judgement. */
const contentKey = ({ channel, contentHash }: PreparedMessage) => `${channel.type} ${contentHash}`;

async function judgeMessages(
  {
    threadOf,
    scheduler: turns,
    messageMs,
  }: { threadOf: () => ModerationThread | undefined; scheduler: FairScheduler; messageMs: number },
  messages: readonly PreparedMessage[],
  call: Parameters<Moderate>[1],
): Promise<ModerationResult> {
  const byContent = new Map<string, PreparedMessage>();
  let bytes = 0;
  for (const message of messages) {
    const key = contentKey(message);
    if (byContent.has(key)) continue;
    byContent.set(key, message);
    bytes += message.payload.length;
  }
  const keys = [...byContent.keys()];
  const contents = [...byContent.values()];
  const known = new Map<string, Judgement | Refusal>();
  let spentMs = 0;
  const step = async () => {
    const first = known.size;
    const thread = threadOf();
    const verdicts =
      thread === undefined
        ? noRules(contents.length - first)
        : await askThread(thread, contents.slice(first, first + messagesPerRequest), messageMs);
    spentMs += verdicts.tookMs;
    for (const [index, verdict] of verdicts.judgements.entries())
      known.set(keys[first + index] as string, verdict === 'late' ? contentTooSlow(messageMs) : verdict);
    if (spentMs > batchMs) for (const key of keys) if (!known.has(key)) known.set(key, batchTimedOut);
    return { isDone: known.size === contents.length, tookMs: verdicts.tookMs };
  };
  if (contents.length > 0) await turns.run({ ...call, isLong: bytes > longBytes, weigh: () => bytes }, step);

  const refused = new Map<PreparedMessage, Refusal>();
  const judged = messages.map((message) => {
    const verdict = known.get(contentKey(message)) as Judgement | Refusal;
    if ('reason' in verdict) {
      refused.set(message, verdict);
      return message;
    }
    const { payload, flaggedBy, refusedBy } = verdict;
    const isSame = payload === undefined && flaggedBy.length === 0;
    const afterChange = isSame
      ? message
      : { ...message, payload: payload ?? message.payload, ...(flaggedBy.length === 0 ? {} : { flaggedBy }) };
    if (refusedBy !== undefined) refused.set(afterChange, contentRefused(refusedBy));
    return afterChange;
  });
  return { messages: judged, refused };
}

const noRules = (count: number) => ({ judgements: Array<Judgement>(count).fill({ flaggedBy: [] }), tookMs: 0 });

/** The batch took all of its time. */
const batchTimedOut: Refusal = {
  reason: 'OVERLOADED',
  message: `moderation of the batch took longer than ${batchMs} ms; send this message again in a smaller batch`,
  metadata: { limit_ms: String(batchMs) },
  retryAfterMs,
};

async function askThread(thread: ModerationThread, contents: readonly PreparedMessage[], messageMs: number) {
  const some: PreparedMessage[] = [];
  let size = 0;
  for (const message of contents) {
    if (some.length > 0 && size + message.payload.length > bytesPerRequest) break;
    some.push(message);
    size += message.payload.length;
  }
  // One piece of memory, which goes over and is not copied again.
  const bytes = new Uint8Array(size);
  let at = 0;
  for (const { payload } of some) {
    bytes.set(payload, at);
    at += payload.length;
  }
  const parcel = some.map(({ channel, tagKey, payload }) => ({
    channelType: channel.type,
    tagKey,
    payloadBytes: payload.length,
  }));
  try {
    return await thread.judge({ bytes, messages: parcel, messageMs, sliceMs });
  } catch (error) {
    const message = 'the moderation rules are being reloaded; retry';
    throw new ServiceError({ reason: 'STORE_BUSY', message, metadata: {}, retryAfterMs }, { cause: error });
  }
}

/** The rule id that stands for the hook. */
const hookRuleId = 0;

async function askHook(hook: ModerationHook, { messages, refused }: ModerationResult): Promise<ModerationResult> {
  const asked = messages.filter((message) => !refused.has(message));
  if (asked.length === 0) return { messages, refused };
  const verdicts = await hook(asked);
  const all = new Map(refused);
  const byMessage = new Map(asked.map((message, index) => [message, verdicts[index]]));
  const judged = messages.map((message) => {
    const verdict = byMessage.get(message);
    if (verdict === undefined || verdict.action === 'allow') return message;
    if (verdict.action === 'unavailable') all.set(message, verdict.refusal);
    else if (verdict.action === 'refuse') all.set(message, contentRefused(hookRuleId));
    else if (verdict.action === 'mask') return { ...message, payload: verdict.payload };
    else return { ...message, flaggedBy: [...(message.flaggedBy ?? []), hookRuleId] };
    return message;
  });
  return { messages: judged, refused: all };
}

/** Milliseconds that a pattern may take to compile. */
const compileMs = 50;
/** Attempts per pattern: one that had less than half of that CPU time on a busy machine is repeated. */
const maxCompileAttempts = 20;

async function assertValidRule(rule: Omit<Rule, 'ruleId'>, others: readonly Rule[]): Promise<void> {
  const { keywords, patterns } = rule;
  // No answer could hold a larger one.
  const bytes = bytesOf(rule);
  if (bytes > limits.pageBytes)
    throw invalidField(
      'rule.keywords',
      `must be at most ${limits.pageBytes} bytes with the rest of the rule, not ${bytes}`,
      {
        limit: String(limits.pageBytes),
        actual: String(bytes),
      },
    );
  if (keywords.length === 0 && patterns.length === 0)
    throw invalidField('rule.keywords', 'must have at least one entry, unless rule.patterns has one');
  let instructions = 0;
  for (const [index, pattern] of patterns.entries()) {
    const size = await measureWithTimeout(pattern);
    if ('fault' in size) throw invalidField(`rule.patterns[${index}]`, size.fault);
    instructions += size.instructions;
    await setImmediate();
  }
  for (const pattern of others.flatMap((rule) => rule.patterns)) {
    const size = patterns.length === 0 ? undefined : await measureWithTimeout(pattern);
    if (size !== undefined && 'instructions' in size) instructions += size.instructions;
    await setImmediate();
  }
  assertTotal('rule.patterns', 'instructions', instructions, limits.ruleInstructions);
  const chars = [...keywords, ...others.flatMap((rule) => rule.keywords)].reduce((sum, each) => sum + each.length, 0);
  assertTotal('rule.keywords', 'characters', chars, limits.ruleKeywordChars);
}

function assertTotal(field: string, unit: string, actual: number, limit: number): void {
  if (actual <= limit) return;
  throw invalidField(field, `must have at most ${limit} ${unit} in all rules together, not ${actual}`, {
    limit: String(limit),
    actual: String(actual),
  });
}

async function measureWithTimeout(pattern: string): Promise<ReturnType<typeof measurePattern>> {
  let size: ReturnType<typeof measurePattern> = { fault: `takes longer than ${compileMs} ms to compile; simplify it` };
  for (let attempt = 1; ; attempt++) {
    const began = threadCpuMs();
    try {
      runWithTimeout(compileMs, () => {
        size = measurePattern(pattern);
      });
      return size;
    } catch (error) {
      if (!(error instanceof ExecutionTimeout)) throw error;
      if (threadCpuMs() - began > compileMs / 2 || attempt === maxCompileAttempts) return size;
    }
    await setImmediate();
  }
}

function ruleNotFound(ruleId: number): ServiceError {
  return new ServiceError({
    reason: 'RULE_NOT_FOUND',
    message: `rule ${ruleId} does not exist`,
    metadata: { rule_id: String(ruleId) },
  });
}
