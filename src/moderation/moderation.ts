// Moderation of content: rules (keywords and patterns), then an optional hook over HTTP.
//
// Entry points: `createModeration` (rules, flags, and `moderate` for sends). Rules run in a thread
// of their own (thread.ts, worker.ts); calls share it in slices, fairly per caller. Invariants:
//  1. The event loop matches no pattern, so that rules never delay other calls.
//  2. A message is accepted only after all rules read it; a timeout refuses it.
//  3. A message is judged by one version of the rules: the old thread serves until the new rules
//     are compiled.

import { limits } from '../limits.ts';
import type { Cancellation } from '../messages/cancellation.ts';
import type { ChannelStore } from '../messages/channel-keys.sql.ts';
import { changed, type PreparedMessage } from '../messages/message.ts';
import type { Refusal } from '../messages/service-error.ts';
import { ServiceError } from '../messages/service-error.ts';
import { orBusy } from '../messages/store-busy.ts';
import { FairScheduler } from '../overload/fair-scheduler.ts';
import { secondMs } from '../time.ts';
import type { ModerationHook } from './hook.ts';
import { assertValidRule } from './rule-limits.ts';
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
import { type Content, contentRefused, contentTooSlow, type Judgement, type Rule } from './rules.ts';
import { type ModerationThread, startThread } from './thread.ts';

/** Moderated messages, in order: unchanged, masked or flagged. */
export interface ModerationResult {
  readonly messages: readonly PreparedMessage[];
  /** Refusals of some of these messages. */
  readonly refused: ReadonlyMap<PreparedMessage, Refusal>;
}

/** Moderates messages. `caller`: the caller whose share of the thread it uses. */
export type Moderate = (
  messages: readonly PreparedMessage[],
  call: { readonly caller: string; readonly signal?: Cancellation | undefined },
) => ModerationResult | Promise<ModerationResult>;

/** Management of rules and flagged messages, and moderation of sends. */
export interface Moderation {
  readonly moderate: Moderate;
  /** Reloads the rules if they have changed. */
  reload(): Promise<void>;
  /** Applies the rules to a payload, which is not stored. `caller`: as in `Moderate`. */
  test(content: TestedContent, call: Parameters<Moderate>[1]): Promise<RuleTest>;
  create(rule: Omit<Rule, 'ruleId'>): Promise<Rule>;
  replace(rule: Rule): Promise<Rule>;
  remove(ruleId: number): Promise<void>;
  list(): Promise<Rule[]>;
  listFlagged(after: number, limit: number): Promise<FlaggedMessage[]>;
  review(messageIds: readonly number[]): Promise<void>;
  close(): Promise<void>;
}

/** What the rules look at. */
export type TestedContent = Omit<Content, 'explain'>;

/** The rules that match a payload, by action, and the payload after masking. */
export interface RuleTest {
  readonly refusedBy: readonly number[];
  readonly maskedBy: readonly number[];
  readonly flaggedBy: readonly number[];
  readonly payload: Uint8Array;
}

export interface ModerationOptions {
  readonly scheduler?: FairScheduler;
  /** Maximum CPU milliseconds per message. */
  readonly messageMs?: number;
  readonly now?: () => number;
}

const noRefusals: ReadonlyMap<PreparedMessage, Refusal> = new Map();

/** Creates moderation. `hook`: called per batch, for the messages that the rules do not refuse. */
export function createModeration(
  store: ChannelStore,
  hook: ModerationHook | undefined,
  { scheduler = new FairScheduler(), messageMs = defaultMessageMs, now = Date.now }: ModerationOptions = {},
): Moderation {
  const { db } = store;
  let version = -1;
  let thread: ModerationThread | undefined;
  const load = async () => {
    const current = await readRulesVersion(db);
    if (current === version && (thread === undefined || thread.isAlive)) return;
    // Read after the version: a concurrent change is loaded twice rather than missed.
    const rules = await listRules(db);
    const previous = thread;
    // The old thread serves until the new rules are compiled.
    thread = rules.length === 0 ? undefined : await startThread(rules, () => void reload().catch(() => {}));
    version = current;
    await previous?.close();
  };
  /** Loads run one after the other, so that each change starts one thread. */
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
  const judge = async (...[messages, call]: Parameters<Moderate>): Promise<ModerationResult> => {
    const judged = await judgeMessages({ currentThread: () => thread, scheduler, messageMs }, messages, call);
    return hook === undefined ? judged : await askHook(hook, judged);
  };
  return {
    moderate: (messages, call) =>
      thread === undefined && hook === undefined ? { messages, refused: noRefusals } : judge(messages, call),
    reload: () => orBusy(reload),
    test: (content, call) => testRules({ currentThread: () => thread, scheduler, messageMs }, content, call),
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
    listFlagged: (after, limit) => orBusy(() => listFlagged(store, after, limit, now())),
    review: (messageIds) => orBusy(() => removeFlags(store, messageIds)),
    async close() {
      await loading;
      await thread?.close();
    },
  };
}

/** Maximum CPU time per message. A simple pattern takes 7 ms for the largest payload. */
const defaultMessageMs = 500;
/** CPU time after which another call gets a slice. */
const sliceMs = 20;
/** CPU time per batch, after which its remaining messages are refused as retryable. */
const batchMs = 10 * secondMs;
/** Bytes of payloads per request to the thread. */
const bytesPerRequest = limits.payloadBytes;
const messagesPerRequest = 200;
/** Payload bytes from which a call counts as long, so that short calls go first. */
const longBytes = 16 * 1024;
const retryAfterMs = secondMs;

/** Messages with equal keys are judged once per batch: a broadcast takes one judgement. */
const contentKey = ({ channel, contentHash }: PreparedMessage) => `${channel.type} ${contentHash}`;

interface JudgeParts {
  /** The current thread; undefined: there are no rules. */
  readonly currentThread: () => ModerationThread | undefined;
  readonly scheduler: FairScheduler;
  readonly messageMs: number;
}

/** Judges messages by the rules, in slices of the thread. */
async function judgeMessages(
  { currentThread, scheduler, messageMs }: JudgeParts,
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
  const judgements = new Map<string, Judgement | Refusal>();
  let spentMs = 0;
  const step = async () => {
    const first = judgements.size;
    const thread = currentThread();
    const response =
      thread === undefined
        ? withoutRules(contents.length - first)
        : await askThread(thread, contents.slice(first, first + messagesPerRequest), messageMs);
    spentMs += response.tookMs;
    for (const [index, each] of response.judgements.entries())
      judgements.set(keys[first + index] as string, each === 'timed_out' ? contentTooSlow(messageMs) : each);
    if (spentMs > batchMs) for (const key of keys) if (!judgements.has(key)) judgements.set(key, batchTimedOut);
    return { isDone: judgements.size === contents.length, tookMs: response.tookMs };
  };
  if (contents.length > 0) await scheduler.run({ ...call, isLong: bytes > longBytes, weigh: () => bytes }, step);
  return applyJudgements(messages, judgements);
}

function applyJudgements(
  messages: readonly PreparedMessage[],
  judgements: ReadonlyMap<string, Judgement | Refusal>,
): ModerationResult {
  const refused = new Map<PreparedMessage, Refusal>();
  const judged = messages.map((message) => {
    const judgement = judgements.get(contentKey(message)) as Judgement | Refusal;
    if ('reason' in judgement) {
      refused.set(message, judgement);
      return message;
    }
    const { payload, flaggedBy, refusedBy } = judgement;
    const isUnchanged = payload === undefined && flaggedBy.length === 0;
    const result = isUnchanged
      ? message
      : changed(message, { payload: payload ?? message.payload, ...(flaggedBy.length === 0 ? {} : { flaggedBy }) });
    if (refusedBy !== undefined) refused.set(result, contentRefused(refusedBy));
    return result;
  });
  return { messages: judged, refused };
}

const withoutRules = (count: number) => ({ judgements: Array<Judgement>(count).fill({ flaggedBy: [] }), tookMs: 0 });

/** The refusal of the remaining messages of a batch that exceeded `batchMs`. */
const batchTimedOut: Refusal = {
  reason: 'OVERLOADED',
  message: `moderation of the batch took longer than ${batchMs} ms; send this message again in a smaller batch`,
  metadata: { limit_ms: String(batchMs) },
  retryAfterMs,
};

/** Judges one payload with an explanation, in a slice of the thread as a send of its caller. */
async function testRules(
  { currentThread, scheduler, messageMs }: JudgeParts,
  { channelType, tagKey, payload }: TestedContent,
  call: Parameters<Moderate>[1],
): Promise<RuleTest> {
  let judgement: Judgement | 'timed_out' = { flaggedBy: [] };
  const step = async () => {
    const thread = currentThread();
    if (thread === undefined) return { isDone: true, tookMs: 0 };
    const response = await askThread(thread, [{ channel: { type: channelType }, tagKey, payload }], messageMs, true);
    judgement = response.judgements[0] ?? judgement;
    return { isDone: true, tookMs: response.tookMs };
  };
  const bytes = payload.length;
  await scheduler.run({ ...call, isLong: bytes > longBytes, weigh: () => bytes }, step);
  const found = judgement as Judgement | 'timed_out';
  if (found === 'timed_out') throw new ServiceError(contentTooSlow(messageMs));
  const { refusedBy = [], maskedBy = [] } = found.explanation ?? {};
  return { refusedBy, maskedBy, flaggedBy: found.flaggedBy, payload: found.payload ?? payload };
}

/** What the thread needs of a message. */
type JudgedContent = Pick<PreparedMessage, 'tagKey' | 'payload'> & {
  readonly channel: Pick<PreparedMessage['channel'], 'type'>;
};

/** Judges the first of these messages, up to `bytesPerRequest`, in the thread. */
async function askThread(
  thread: ModerationThread,
  contents: readonly JudgedContent[],
  messageMs: number,
  explain = false,
) {
  const taken: JudgedContent[] = [];
  let size = 0;
  for (const message of contents) {
    if (taken.length > 0 && size + message.payload.length > bytesPerRequest) break;
    taken.push(message);
    size += message.payload.length;
  }
  // One buffer, which is transferred to the thread without another copy.
  const bytes = new Uint8Array(size);
  let offset = 0;
  for (const { payload } of taken) {
    bytes.set(payload, offset);
    offset += payload.length;
  }
  const messages = taken.map(({ channel, tagKey, payload }) => ({
    channelType: channel.type,
    tagKey,
    payloadBytes: payload.length,
  }));
  try {
    return await thread.judge({ bytes, messages, messageMs, sliceMs, explain });
  } catch (error) {
    const message = 'the moderation rules are being reloaded; retry';
    throw new ServiceError({ reason: 'STORE_BUSY', message, metadata: {}, retryAfterMs }, { cause: error });
  }
}

/** The rule id of refusals and flags by the hook. */
const hookRuleId = 0;

async function askHook(hook: ModerationHook, { messages, refused }: ModerationResult): Promise<ModerationResult> {
  const remaining = messages.filter((message) => !refused.has(message));
  if (remaining.length === 0) return { messages, refused };
  const verdicts = await hook(remaining);
  const allRefused = new Map(refused);
  const byMessage = new Map(remaining.map((message, index) => [message, verdicts[index]]));
  const judged = messages.map((message) => {
    const verdict = byMessage.get(message);
    if (verdict === undefined || verdict.action === 'allow') return message;
    if (verdict.action === 'unavailable') allRefused.set(message, verdict.refusal);
    else if (verdict.action === 'refuse') allRefused.set(message, contentRefused(hookRuleId));
    else if (verdict.action === 'mask') return changed(message, { payload: verdict.payload });
    else return changed(message, { flaggedBy: [...(message.flaggedBy ?? []), hookRuleId] });
    return message;
  });
  return { messages: judged, refused: allRefused };
}

function ruleNotFound(ruleId: number): ServiceError {
  return new ServiceError({
    reason: 'RULE_NOT_FOUND',
    message: `rule ${ruleId} does not exist`,
    metadata: { rule_id: String(ruleId) },
  });
}
