import { type Command, InvalidArgumentError } from 'commander';

/** A command that cannot be carried out; the message is one line for the one who gave it. */
export class CommandError extends Error {}

/** What a run of a command came to, as its exit code. */
export const exit = { done: 0, failed: 1, refused: 2, interrupted: 130 } as const;

/** Ends a command's help with its exit codes and examples of it. */
export function withExamples(command: Command, examples: readonly string[], codes = '0 done, 1 failed'): Command {
  const lines = examples.map((example) => `  ${example}`);
  return command.addHelpText('after', ['', `Exit codes: ${codes}.`, '', 'Examples:', ...lines].join('\n'));
}

/** A parser of whole numbers within bounds. */
export function wholeNumber(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d{1,16}$/.test(text) || value < least || value > most)
      throw new InvalidArgumentError(`It takes a whole number from ${least} to ${most}.`);
    return value;
  };
}

/** A parser of message sequences. */
export const sequence = wholeNumber(0, Number.MAX_SAFE_INTEGER);

/** A parser of an option that may be given more than once, and that takes several values separated by commas. */
export function listed(text: string, before: readonly string[] = []): string[] {
  return [...before, ...splitList(text)];
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
  if (at < 1) throw new InvalidArgumentError('It takes name=value.');
  return { ...before, [text.slice(0, at)]: text.slice(at + 1) };
}

/** A parser of a template's name, with its version. */
export function templateName(text: string): { name: string; version: number } {
  const [, name, version = '0'] = /^([A-Za-z0-9._-]{1,128})(?:@(\d{1,9}))?$/.exec(text) ?? [];
  if (name === undefined) throw new InvalidArgumentError('It takes a name, or name@version.');
  return { name, version: Number(version) };
}
