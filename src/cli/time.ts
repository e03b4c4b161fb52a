import { InvalidArgumentError } from 'commander';
import { parseInstant } from '../message-files/time.ts';

/** A parser of a time with an offset. */
export function time(text: string): Date {
  try {
    return new Date(parseInstant(text));
  } catch (error) {
    throw new InvalidArgumentError(`${error instanceof Error ? error.message : error}.`);
  }
}

/** A parser of IANA time zones. */
export function zone(text: string): string {
  try {
    return new Intl.DateTimeFormat('en', { timeZone: text }).resolvedOptions().timeZone;
  } catch {
    throw new InvalidArgumentError('Expected an IANA time zone such as Europe/Berlin or Asia/Shanghai.');
  }
}
