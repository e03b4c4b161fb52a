import type { Command } from 'commander';
import type { ChannelType } from '../../../gen/sendbatch/v1/message_pb.ts';
import { ofChannel } from '../channel-type.ts';
import { type ConnectOptions, calling, connectTo, patienceMinutes } from '../connect.ts';
import { onInterrupt } from '../interrupt.ts';
import { messageLine } from '../output/message-line.ts';
import { createOutageNotice } from '../output/outage-notice.ts';
import { print } from '../output/output.ts';
import { exit, sequence, wholeNumber } from '../usage.ts';

interface TailOptions extends ConnectOptions {
  readonly after: number;
  readonly fromNow?: boolean;
  readonly uid?: string;
  readonly count?: number;
}

const about = `
Prints sequence, sender and payload, separated by tabs: UTF-8 text as it is, other bytes as base64. Once connected, it
retries an unreachable service for up to ${patienceMinutes} minutes and resumes without gaps or repeats. A service that is unreachable at the
start is an error within seconds.

Exit codes: 0 after --count messages; 130 after Ctrl-C; 1 error. When the reader of a pipe exits (| head -1), tail exits
with 0 once the next message arrives, because a pipe does not report it earlier. --count 1 exits at once.

Examples:
  sendbatch tail 2 group123
  sendbatch tail group group123 --from-now --count 1
  sendbatch tail group group123 --from-now --json | jq -r .payload
  sendbatch tail person alice@bob --after 41 --count 10`;

export function addTail(program: Command): void {
  const command = ofChannel(
    program
      .command('tail')
      .summary('follow a channel')
      .description('Follows a channel and prints one line per message.'),
  )
    .option('--after <seq>', 'start after this sequence', sequence, 0)
    .option('--since-now, --from-now', 'only messages accepted from now on')
    .option('--uid <uid>', 'only messages this user may read')
    .option('--count <n>', 'exit after n messages', wholeNumber(1, Number.MAX_SAFE_INTEGER));
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
  const outage = createOutageNotice();
  let seen = 0;
  try {
    const watching = {
      signal: stop.signal,
      onCaughtUp: () => outage.answered(),
      onResume: (error: unknown) => outage.failed(error),
    };
    for await (const message of client.tail({ channels: [channel], uid: options.uid ?? '' }, watching)) {
      outage.answered();
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
