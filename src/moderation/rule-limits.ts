import { setImmediate } from 'node:timers/promises';
import { limits } from '../limits.ts';
import { bytesOf } from '../messages/page.ts';
import { invalidField } from '../messages/service-error.ts';
import { ExecutionTimeout, runWithTimeout, threadCpuMs } from '../overload/watchdog.ts';
import { measurePattern, type Rule } from './rules.ts';

/** Maximum time to compile a pattern. */
const compileMs = 50;
/**
 * Attempts per pattern: one that got less than half of that CPU time on a busy machine is repeated.
 */
const maxCompileAttempts = 20;

/** Throws if a rule is invalid or if it exceeds the limits of all rules together. */
export async function assertValidRule(rule: Omit<Rule, 'ruleId'>, others: readonly Rule[]): Promise<void> {
  const { keywords, patterns } = rule;
  // A larger rule would fit no page of ListRules.
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

/** Measures a pattern, in time bounded by the watchdog. */
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
