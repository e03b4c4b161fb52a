import { type ParseArgsConfig, parseArgs } from 'node:util';

/** A command line that cannot be followed; the message says how it is written. */
export class UsageError extends Error {}

/** The options and words of a command. */
export function parseOptions<O extends NonNullable<ParseArgsConfig['options']>>(
  args: readonly string[],
  options: O,
  usage: string,
) {
  try {
    return parseArgs({ args: [...args], allowPositionals: true, options });
  } catch (error) {
    throw new UsageError(`${error instanceof Error ? error.message : String(error)}\n\n  ${usage}`);
  }
}
