// Moderation rules, compiled: keywords of all rules into one automaton, patterns with RE2 in linear
// time. Pure; the thread in worker.ts bounds its time.

import { RE2JS } from 're2js';
import { limits } from '../limits.ts';
import type { Refusal } from '../messages/service-error.ts';
import { KeywordAutomaton } from './keyword-automaton.ts';
import {
  extractTexts,
  type FoldedText,
  foldText,
  originalSpans,
  type Span,
  stripInvisible,
  type TextMatches,
} from './payload-normalize.ts';

/** A moderation rule. */
export interface Rule {
  readonly ruleId: number;
  readonly action: 'refuse' | 'mask' | 'flag';
  readonly keywords: readonly string[];
  readonly patterns: readonly string[];
  /** Empty: all types. */
  readonly channelTypes: readonly number[];
  /** Empty: all tags. */
  readonly tagKeys: readonly string[];
  readonly note: string;
}

/** The parts of a message that rules judge. */
export interface Content {
  readonly channelType: number;
  readonly tagKey: string;
  readonly payload: Uint8Array;
  /** Whether the judgement names every rule that matches. */
  readonly explain?: boolean;
}

/** The effect of the rules on a payload. */
export interface Judgement {
  /** The first rule that refuses it. */
  readonly refusedBy?: number;
  /** The payload with masked matches; unset: unchanged. */
  readonly payload?: Uint8Array;
  readonly flaggedBy: readonly number[];
  /** The rules that refuse and that mask, where an explanation was asked for. */
  readonly explanation?: { readonly refusedBy: readonly number[]; readonly maskedBy: readonly number[] };
}

/** Judges payloads by one set of rules. */
export type Moderator = (content: Content) => Judgement;

const noFindings: Judgement = { flaggedBy: [] };
const wordCharacter = /[\p{Script=Latin}\p{N}_]/u;

function compile(pattern: string): RE2JS {
  return RE2JS.compile(stripInvisible(pattern), RE2JS.CASE_INSENSITIVE);
}

/**
 * Compiles a pattern and returns its size, or why it cannot be used. A match takes at most 0.1 µs
 * per character and instruction.
 */
export function measurePattern(pattern: string): { readonly instructions: number } | { readonly fault: string } {
  let instructions: number;
  try {
    instructions = compile(pattern).programSize();
  } catch (error) {
    return { fault: `is not a valid RE2 pattern: ${error instanceof Error ? error.message : String(error)}` };
  }
  return instructions <= limits.patternInstructions
    ? { instructions }
    : {
        fault: `compiles to ${instructions} instructions, at most ${limits.patternInstructions} are allowed; use smaller repetitions`,
      };
}

/** Matches in one text of a payload. */
interface Findings {
  readonly refusedBy: Set<number>;
  readonly maskedBy: Set<number>;
  readonly flaggedBy: Set<number>;
  /** Per UTF-16 unit of the folded text: 1 if it is to be masked. */
  covered: Uint8Array | undefined;
}

/** Compiles rules into a moderator; undefined if there are none. */
export function createModerator(rules: readonly Rule[]): Moderator | undefined {
  if (rules.length === 0) return undefined;
  const byKeyword = new Map<string, Rule[]>();
  for (const rule of rules) {
    for (const keyword of rule.keywords) {
      const { folded } = foldText(keyword);
      if (folded.trim() === '') continue;
      const known = byKeyword.get(folded);
      if (known === undefined) byKeyword.set(folded, [rule]);
      else if (known.at(-1) !== rule) known.push(rule);
    }
  }
  const automaton = byKeyword.size === 0 ? undefined : new KeywordAutomaton([...byKeyword.keys()]);
  const rulesByKeyword = [...byKeyword.values()];
  const patterns = rules.flatMap((rule) => rule.patterns.map((pattern) => ({ rule, compiled: compile(pattern) })));

  function record({ ruleId, action }: Rule, begin: number, end: number, text: string, findings: Findings): void {
    if (action === 'refuse') findings.refusedBy.add(ruleId);
    else if (action === 'flag') findings.flaggedBy.add(ruleId);
    else {
      findings.maskedBy.add(ruleId);
      findings.covered ??= new Uint8Array(text.length);
      findings.covered.fill(1, begin, end);
    }
  }

  function search(text: string, applicable: ReadonlySet<Rule>, findings: Findings): void {
    automaton?.search(text, (keyword, begin, end) => {
      if (!isWholeWord(text, begin, end)) return;
      for (const rule of rulesByKeyword[keyword] ?? [])
        if (applicable.has(rule)) record(rule, begin, end, text, findings);
    });
    for (const { rule, compiled } of patterns) {
      // One match is enough to refuse or flag.
      if (!applicable.has(rule) || findings.refusedBy.has(rule.ruleId) || findings.flaggedBy.has(rule.ruleId)) continue;
      const matcher = compiled.matcher(text);
      while (matcher.find()) {
        if (matcher.end() === matcher.start()) continue;
        record(rule, matcher.start(), matcher.end(), text, findings);
        if (rule.action !== 'mask') break;
      }
    }
  }

  return ({ channelType, tagKey, payload, explain = false }) => {
    const applicable = new Set(rules.filter((rule) => appliesTo(rule, channelType, tagKey)));
    if (applicable.size === 0) return noFindings;
    const texts = extractTexts(payload);
    const refusedBy = new Set<number>();
    const maskedBy = new Set<number>();
    const flaggedBy = new Set<number>();
    const masked: TextMatches[] = [];
    for (const [index, text] of texts.values.entries()) {
      const folded = foldText(text);
      const findings: Findings = { refusedBy, maskedBy, flaggedBy, covered: undefined };
      search(folded.folded, applicable, findings);
      if (findings.covered !== undefined) masked.push({ index, spans: coveredSpans(folded, findings.covered) });
    }
    return {
      ...(refusedBy.size === 0 ? {} : { refusedBy: Math.min(...refusedBy) }),
      ...(masked.length === 0 ? {} : { payload: texts.mask(masked) }),
      flaggedBy: sorted(flaggedBy),
      ...(explain ? { explanation: { refusedBy: sorted(refusedBy), maskedBy: sorted(maskedBy) } } : {}),
    };
  };
}

function sorted(ruleIds: ReadonlySet<number>): number[] {
  return [...ruleIds].sort((a, b) => a - b);
}

function coveredSpans(folded: FoldedText, covered: Uint8Array): Span[] {
  const spans: Span[] = [];
  for (let begin = covered.indexOf(1); begin !== -1; begin = covered.indexOf(1, begin)) {
    const end = covered.indexOf(0, begin);
    spans.push(...originalSpans(folded, begin, end === -1 ? covered.length : end));
    if (end === -1) break;
    begin = end;
  }
  return spans;
}

function appliesTo({ channelTypes, tagKeys }: Rule, channelType: number, tagKey: string): boolean {
  return (
    (channelTypes.length === 0 || channelTypes.includes(channelType)) &&
    (tagKeys.length === 0 || tagKeys.includes(tagKey))
  );
}

/**
 * Whether a match has word boundaries. Only Latin letters, digits and `_` form words; other scripts
 * match anywhere.
 */
function isWholeWord(text: string, begin: number, end: number): boolean {
  const joined = (left: string | undefined, right: string | undefined) =>
    left !== undefined && right !== undefined && wordCharacter.test(left) && wordCharacter.test(right);
  return !joined(text[begin - 1], text[begin]) && !joined(text[end - 1], text[end]);
}

/** The refusal of a message that exceeds the time limit: unchecked content is not accepted. */
export function contentTooSlow(ms: number): Refusal {
  return {
    reason: 'CONTENT_REFUSED',
    message: `moderation of the content took longer than ${ms} ms; send less text per message, or simplify the patterns`,
    metadata: { limit_ms: String(ms) },
  };
}

/** The refusal of a message by a rule. */
export function contentRefused(ruleId: number): Refusal {
  return {
    reason: 'CONTENT_REFUSED',
    message: ruleId === 0 ? 'the moderation hook refused the content' : `rule ${ruleId} refused the content`,
    metadata: { rule_id: String(ruleId) },
  };
}
