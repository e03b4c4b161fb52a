import { type Command, InvalidArgumentError } from 'commander';

/** An expected error of a command. Its message is printed in one line and says what to do. */
export class CommandError extends Error {}

/** Exit codes of commands. */
export const exit = { done: 0, failed: 1, refused: 2, interrupted: 130 } as const;

/** Adds exit codes and examples to the help of a command. */
export function withExamples(command: Command, examples: readonly string[], codes = '0 success, 1 error'): Command {
  const lines = examples.map((example) => `  ${example}`);
  return command.addHelpText('after', ['', `Exit codes: ${codes}.`, '', 'Examples:', ...lines].join('\n'));
}

/** A parser of whole numbers within bounds. */
export function wholeNumber(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d{1,16}$/.test(text) || value < least || value > most)
      throw new InvalidArgumentError(`Expected a whole number from ${least} to ${most}.`);
    return value;
  };
}

/** A parser of message sequences. */
export const sequence = wholeNumber(0, Number.MAX_SAFE_INTEGER);
/** A parser of the sequence of one message, or its id. */
export const fromOne = wholeNumber(1, Number.MAX_SAFE_INTEGER);

/** A parser of a repeatable option whose values may be separated by commas. */
export function listed(text: string, before: readonly string[] = []): string[] {
  return [...before, ...splitList(text)];
}

/** The same for whole numbers from 1 on, such as sequences and ids. */
export function listedNumbers(text: string, before: readonly number[] = []): number[] {
  return [...before, ...splitList(text).map(fromOne)];
}

export function splitList(text: string): string[] {
  return text
    .split(',')
    .map((each) => each.trim())
    .filter((each) => each !== '');
}

/** A parser of `name=value` pairs. */
export function pair(text: string, before: Readonly<Record<string, string>> = {}): Record<string, string> {
  const at = text.indexOf('=');
  if (at < 1) throw new InvalidArgumentError('Expected name=value.');
  return { ...before, [text.slice(0, at)]: text.slice(at + 1) };
}

/** A parser of a template name with an optional version. */
export function templateName(text: string): { name: string; version: number } {
  const [, name, version = '0'] = /^([A-Za-z0-9._-]{1,128})(?:@(\d{1,9}))?$/.exec(text) ?? [];
  if (name === undefined) throw new InvalidArgumentError('Expected a name or name@version.');
  return { name, version: Number(version) };
}
