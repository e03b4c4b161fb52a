import type { Command } from 'commander';
import type { ChannelType } from '../../../gen/sendbatch/v1/message_pb.ts';
import { ofChannel } from '../channel-type.ts';
import { type ConnectOptions, calling, connectTo, patienceMinutes } from '../connect.ts';
import { onInterrupt } from '../interrupt.ts';
import { messageLine } from '../output/message-line.ts';
import { createWaiting } from '../output/outage-notice.ts';
import { print } from '../output/output.ts';
import { exit, sequence, wholeNumber } from '../usage.ts';

interface TailOptions extends ConnectOptions {
  readonly after: number;
  readonly fromNow?: boolean;
  readonly uid?: string;
  readonly count?: number;
}

const about = `
Prints seq, sender and payload, separated by tabs: text as it is, other bytes as base64. Once it has been connected it outlives restarts:
it waits up to ${patienceMinutes} minutes for a service that is away, and resumes. A service that is not there at first is given up within seconds.

Exit codes: 0 after --count messages; 130 after Ctrl-C; 1 failed. Whoever reads and has had enough (| head -1) ends it too, with 0, but only when the
next message comes: a pipe does not say so before. --count 1 ends at once.

Examples:
  sendbatch tail 2 group123
  sendbatch tail group group123 --from-now --count 1
  sendbatch tail group group123 --from-now --json | jq -r .payload
  sendbatch tail person alice@bob --after 41 --count 10`;

export function addTail(program: Command): void {
  const command = ofChannel(
    program.command('tail').summary('follow a channel').description('Follows a channel: a line a message.'),
  )
    .option('--after <seq>', 'begin after this sequence', sequence, 0)
    .option('--since-now, --from-now', 'only what comes from now on')
    .option('--uid <uid>', 'only what this user may read')
    .option('--count <n>', 'end after so many messages', wholeNumber(1, Number.MAX_SAFE_INTEGER));
  calling(command)
    .addHelpText('after', about)
    .action(async (channelType: ChannelType, channelId: string, options: TailOptions) => {
      process.exitCode = await tail(channelType, channelId, options);
    });
}

async function tail(channelType: ChannelType, channelId: string, options: TailOptions): Promise<number> {
  const { client } = connectTo(options);
  const most = options.count ?? Number.POSITIVE_INFINITY;
  const channel = { channelType, channelId, afterSeq: BigInt(options.after), fromNow: options.fromNow === true };
  const stop = new AbortController();
  const interruption = onInterrupt(() => stop.abort());
  const waiting = createWaiting();
  let seen = 0;
  try {
    const watching = {
      signal: stop.signal,
      onCaughtUp: () => waiting.answered(),
      onResume: (error: unknown) => waiting.failed(error),
    };
    for await (const message of client.tail({ channels: [channel], uid: options.uid ?? '' }, watching)) {
      waiting.answered();
      await print(messageLine(message, options.json === true));
      seen++;
      if (seen >= most) return exit.done;
    }
  } catch (error) {
    if (!interruption.came()) throw error;
  } finally {
    interruption.leave();
  }
  return interruption.came() ? exit.interrupted : exit.done;
}
