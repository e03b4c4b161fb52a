import { describeTime, parseTime } from '../../../message-files/time.ts';
import { note } from '../../output/output.ts';
import { CommandError } from '../../usage.ts';

export interface SendAtOptions {
  readonly sendAt?: string;
  readonly timeZone?: string;
  readonly json?: boolean;
}

/**
 * The time of --send-at. It is printed in the given zone and in UTC, so that the operator can check
 * it.
 */
export async function sendAtOf({ sendAt, timeZone, json }: SendAtOptions): Promise<number | undefined> {
  if (sendAt === undefined) {
    if (timeZone !== undefined) throw new CommandError('--time-zone requires --send-at');
    return undefined;
  }
  let ms: number;
  try {
    ms = await parseTime(sendAt, timeZone);
  } catch (error) {
    throw new CommandError(`--send-at: ${error instanceof Error ? error.message : error}`, { cause: error });
  }
  const described = await describeTime(ms, timeZone ?? Intl.DateTimeFormat().resolvedOptions().timeZone);
  if (ms <= Date.now()) throw new CommandError(`--send-at: ${described} is in the past; omit --send-at to send now`);
  if (json !== true) note(`will be sent at ${described}`);
  return ms;
}
