import type { Refusal } from '../domain/failure.ts';
import { Failure, invalidField } from '../domain/failure.ts';
import type { Prepared } from '../domain/message.ts';
import { contentRefused, createModerator, type Moderator, patternFault, type Rule } from '../domain/moderation.ts';
import type { Db } from '../storage/database.ts';
import {
  deleteRule,
  type FlaggedMessage,
  insertRule,
  listFlagged,
  listRules,
  readRulesVersion,
  removeFlags,
  updateRule,
} from '../storage/moderation.ts';
import type { ModerationHook } from './moderation-hook.ts';
import { orBusy } from './store-busy.ts';

/** What moderation makes of messages: the same number in the same order, masked or marked where a rule says so. */
export interface Moderated {
  readonly messages: readonly Prepared[];
  /** Of those messages. */
  readonly refused: ReadonlyMap<Prepared, Refusal>;
}

/** Judges messages. `caller`: whose share of the process's moderation it takes. */
export type Moderate = (
  messages: readonly Prepared[],
  call: { readonly caller: string; readonly signal?: AbortSignal | undefined },
) => Promise<Moderated>;

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
}

/** `hook`: asked about each batch after the rules. */
export function createModeration(db: Db, hook: ModerationHook | undefined, now: () => number = Date.now): Moderation {
  let version = -1;
  let moderator: Moderator | undefined;
  const reload = async () => {
    const current = await readRulesVersion(db);
    if (current === version) return;
    // Read after the version: rules that are newer than it are read once more, and none is missed.
    moderator = createModerator(await listRules(db));
    version = current;
  };
  const changed = async <T>(change: () => Promise<T>): Promise<T> =>
    await orBusy(async () => {
      const result = await change();
      await reload();
      return result;
    });
  return {
    async moderate(messages) {
      const byRules = moderator === undefined ? { messages, refused: new Map() } : judge(moderator, messages);
      return hook === undefined ? byRules : await askHook(hook, byRules);
    },
    reload: () => orBusy(reload),
    create: (rule) => {
      assertUsable(rule);
      return changed(async () => ({ ...rule, ruleId: await insertRule(db, rule) }));
    },
    replace: (rule) => {
      assertUsable(rule);
      return changed(async () => {
        if (!(await updateRule(db, rule))) throw notThere(rule.ruleId);
        return rule;
      });
    },
    remove: (ruleId) =>
      changed(async () => {
        if (!(await deleteRule(db, ruleId))) throw notThere(ruleId);
      }),
    list: () => orBusy(() => listRules(db)),
    listFlagged: (after, limit) => orBusy(() => listFlagged(db, after, limit, now())),
    review: (messageIds) => orBusy(() => removeFlags(db, messageIds)),
  };
}

/** The same payload to the same kind of channel is judged once a batch: a broadcast is one judgement. */
function judge(moderator: Moderator, messages: readonly Prepared[]): Moderated {
  const known = new Map<string, ReturnType<Moderator>>();
  const refused = new Map<Prepared, Refusal>();
  const judged = messages.map((message) => {
    const { contentHash, tagKey, payload, channel } = message;
    const key = `${channel.type} ${contentHash}`;
    const judgement = known.get(key) ?? moderator({ channelType: channel.type, tagKey, payload });
    known.set(key, judgement);
    if (judgement.payload === undefined && judgement.flaggedBy.length === 0) {
      if (judgement.refusedBy !== undefined) refused.set(message, contentRefused(judgement.refusedBy));
      return message;
    }
    const changed = {
      ...message,
      payload: judgement.payload ?? payload,
      ...(judgement.flaggedBy.length === 0 ? {} : { flaggedBy: judgement.flaggedBy }),
    };
    if (judgement.refusedBy !== undefined) refused.set(changed, contentRefused(judgement.refusedBy));
    return changed;
  });
  return { messages: judged, refused };
}

/** The rule id that stands for the hook. */
const hookRuleId = 0;

async function askHook(hook: ModerationHook, { messages, refused }: Moderated): Promise<Moderated> {
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

function assertUsable({ keywords, patterns }: Omit<Rule, 'ruleId'>): void {
  if (keywords.length === 0 && patterns.length === 0)
    throw invalidField('rule.keywords', 'or rule.patterns must have an entry: the rule would match nothing');
  for (const [index, pattern] of patterns.entries()) {
    const fault = patternFault(pattern);
    if (fault !== undefined) throw invalidField(`rule.patterns[${index}]`, `is not a pattern of RE2: ${fault}`);
  }
}

function notThere(ruleId: number): Failure {
  return new Failure({
    reason: 'RULE_NOT_EXIST',
    message: `there is no rule ${ruleId}`,
    metadata: { rule_id: String(ruleId) },
  });
}
