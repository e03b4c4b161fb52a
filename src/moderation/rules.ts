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
export interface Content {
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
export type Moderator = (content: Content) => Judgement;

const noFindings: Judgement = { flaggedBy: [] };
const wordCharacter = /[\p{Script=Latin}\p{N}_]/u;

function compile(pattern: string): RE2JS {
  return RE2JS.compile(stripInvisible(pattern), RE2JS.CASE_INSENSITIVE);
}

/** What a pattern is compiled to, in instructions; or why it cannot be used. A text is matched in time that grows with both, by 0.1 µs at most. */
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

/** What is found in one text. */
interface Findings {
  readonly refusedBy: Set<number>;
  readonly flaggedBy: Set<number>;
  /** By the folded text's units: whether something that is to be masked covers them. */
  covered: Uint8Array | undefined;
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
      const known = byKeyword.get(folded);
      if (known === undefined) byKeyword.set(folded, [rule]);
      else if (known.at(-1) !== rule) known.push(rule);
    }
  }
  const automaton = byKeyword.size === 0 ? undefined : new KeywordAutomaton([...byKeyword.keys()]);
  const rulesOf = [...byKeyword.values()];
  const patterns = rules.flatMap((rule) => rule.patterns.map((pattern) => ({ rule, compiled: compile(pattern) })));

  function note({ ruleId, action }: Rule, begin: number, end: number, text: string, findings: Findings): void {
    if (action === 'refuse') findings.refusedBy.add(ruleId);
    else if (action === 'flag') findings.flaggedBy.add(ruleId);
    else {
      findings.covered ??= new Uint8Array(text.length);
      findings.covered.fill(1, begin, end);
    }
  }

  function search(text: string, applicable: ReadonlySet<Rule>, findings: Findings): void {
    automaton?.search(text, (keyword, begin, end) => {
      if (!isWholeWord(text, begin, end)) return;
      for (const rule of rulesOf[keyword] ?? []) if (applicable.has(rule)) note(rule, begin, end, text, findings);
    });
    for (const { rule, compiled } of patterns) {
      // To refuse and to flag once is enough.
      if (!applicable.has(rule) || findings.refusedBy.has(rule.ruleId) || findings.flaggedBy.has(rule.ruleId)) continue;
      const matcher = compiled.matcher(text);
      while (matcher.find()) {
        if (matcher.end() === matcher.start()) continue;
        note(rule, matcher.start(), matcher.end(), text, findings);
        if (rule.action !== 'mask') break;
      }
    }
  }

  return ({ channelType, tagKey, payload }) => {
    const applicable = new Set(rules.filter((rule) => appliesTo(rule, channelType, tagKey)));
    if (applicable.size === 0) return noFindings;
    const texts = extractTexts(payload);
    const refusedBy = new Set<number>();
    const flaggedBy = new Set<number>();
    const masked: TextMatches[] = [];
    for (const [index, text] of texts.values.entries()) {
      const folded = foldText(text);
      const findings: Findings = { refusedBy, flaggedBy, covered: undefined };
      search(folded.folded, applicable, findings);
      if (findings.covered !== undefined) masked.push({ index, spans: coveredSpans(folded, findings.covered) });
    }
    return {
      ...(refusedBy.size === 0 ? {} : { refusedBy: Math.min(...refusedBy) }),
      ...(masked.length === 0 ? {} : { payload: texts.mask(masked) }),
      flaggedBy: [...flaggedBy].sort((a, b) => a - b),
    };
  };
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

/** Latin words are found as words; where a keyword begins or ends with another script there are no edges to go by. */
function isWholeWord(text: string, begin: number, end: number): boolean {
  const joined = (left: string | undefined, right: string | undefined) =>
    left !== undefined && right !== undefined && wordCharacter.test(left) && wordCharacter.test(right);
  return !joined(text[begin - 1], text[begin]) && !joined(text[end - 1], text[end]);
}

/** The refusal of a message that takes the rules too long. It is not let through unread. */
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
