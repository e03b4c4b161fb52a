import { AhoCorasick } from '@monyone/aho-corasick/fast';
import { RE2JS } from 're2js';
import type { Refusal } from './failure.ts';
import { type Found, foldText, type Span, spansOfText, textsOf } from './payload-text.ts';

/** A rule about content. */
export interface Rule {
  readonly ruleId: number;
  readonly action: 'refuse' | 'mask' | 'flag';
  readonly keywords: readonly string[];
  readonly patterns: readonly string[];
  /** Empty: all. */
  readonly channelTypes: readonly number[];
  /** Empty: all. */
  readonly tagKeys: readonly string[];
  readonly note: string;
}

/** What there is to judge of a message. */
export interface Judged {
  readonly channelType: number;
  readonly tagKey: string;
  readonly payload: Uint8Array;
}

/** What the rules say of a payload. */
export interface Judgement {
  /** The first rule that refuses it. */
  readonly refusedBy?: number;
  /** The payload with what matched masked; unset: it stays as it is. */
  readonly payload?: Uint8Array;
  readonly flaggedBy: readonly number[];
}

/** Judges payloads by one set of rules. */
export type Moderator = (judged: Judged) => Judgement;

const nothing: Judgement = { flaggedBy: [] };
const wordCharacter = /[\p{Script=Latin}\p{N}_]/u;

/** Why a pattern cannot be used; undefined when it can. */
export function patternFault(pattern: string): string | undefined {
  try {
    RE2JS.compile(pattern, RE2JS.CASE_INSENSITIVE);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/**
 * Compiles rules: the keywords of all of them into one automaton, which reads a text once however many they are; the patterns run in linear time.
 * Undefined when there is no rule.
 */
export function createModerator(rules: readonly Rule[]): Moderator | undefined {
  if (rules.length === 0) return undefined;
  const byKeyword = new Map<string, Rule[]>();
  for (const rule of rules) {
    for (const keyword of rule.keywords) {
      const { folded } = foldText(keyword);
      if (folded.trim() === '') continue;
      byKeyword.set(folded, [...(byKeyword.get(folded) ?? []), rule]);
    }
  }
  const automaton = byKeyword.size === 0 ? undefined : new AhoCorasick([...byKeyword.keys()]);
  const patterns = rules.flatMap((rule) =>
    rule.patterns.map((pattern) => ({ rule, compiled: RE2JS.compile(pattern, RE2JS.CASE_INSENSITIVE) })),
  );

  function matches(text: string): { rule: Rule; begin: number; end: number }[] {
    const found: { rule: Rule; begin: number; end: number }[] = [];
    for (const { begin, end, keyword } of automaton?.matchInText(text) ?? []) {
      if (!isWhole(text, begin, end)) continue;
      for (const rule of byKeyword.get(keyword) ?? []) found.push({ rule, begin, end });
    }
    for (const { rule, compiled } of patterns) {
      const matcher = compiled.matcher(text);
      while (matcher.find())
        if (matcher.end() > matcher.start()) found.push({ rule, begin: matcher.start(), end: matcher.end() });
    }
    return found;
  }

  return ({ channelType, tagKey, payload }) => {
    const concerned = new Set(rules.filter((rule) => concerns(rule, channelType, tagKey)));
    if (concerned.size === 0) return nothing;
    const texts = textsOf(payload);
    if (texts === undefined) return nothing;
    let refusedBy: number | undefined;
    const flaggedBy = new Set<number>();
    const masked: Found[] = [];
    for (const [index, text] of texts.values.entries()) {
      const folded = foldText(text);
      const spans: Span[] = [];
      for (const { rule, begin, end } of matches(folded.folded)) {
        if (!concerned.has(rule)) continue;
        if (rule.action === 'refuse') refusedBy = Math.min(refusedBy ?? rule.ruleId, rule.ruleId);
        else if (rule.action === 'flag') flaggedBy.add(rule.ruleId);
        else spans.push(...spansOfText(folded, begin, end));
      }
      if (spans.length > 0) masked.push({ index, spans });
    }
    return {
      ...(refusedBy === undefined ? {} : { refusedBy }),
      ...(masked.length === 0 ? {} : { payload: texts.masked(masked) }),
      flaggedBy: [...flaggedBy].sort((a, b) => a - b),
    };
  };
}

function concerns({ channelTypes, tagKeys }: Rule, channelType: number, tagKey: string): boolean {
  return (
    (channelTypes.length === 0 || channelTypes.includes(channelType)) &&
    (tagKeys.length === 0 || tagKeys.includes(tagKey))
  );
}

/** Latin words are found as words; where a keyword begins or ends with another script there are no edges to go by. */
function isWhole(text: string, begin: number, end: number): boolean {
  const joined = (left: string | undefined, right: string | undefined) =>
    left !== undefined && right !== undefined && wordCharacter.test(left) && wordCharacter.test(right);
  return !joined(text[begin - 1], text[begin]) && !joined(text[end - 1], text[end]);
}

/** The refusal of a message by a rule. */
export function contentRefused(ruleId: number): Refusal {
  return {
    reason: 'CONTENT_REFUSED',
    message:
      ruleId === 0 ? 'the content is refused by the moderation hook' : `the content is refused by rule ${ruleId}`,
    metadata: { rule_id: String(ruleId) },
  };
}
