import { toJsonString } from '@bufbuild/protobuf';
import type { Command } from 'commander';
import { type ChannelType, type Message, MessageSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import { ofChannel } from './channel-type.ts';
import { type ConnectOptions, calling, connectTo } from './connect.ts';
import { onInterrupt } from './interrupt.ts';
import { paint, print, printable } from './output.ts';
import { exit, sequence, wholeNumber } from './usage.ts';

interface TailOptions extends ConnectOptions {
  readonly after: number;
  readonly fromNow?: boolean;
  readonly uid?: string;
  readonly count?: number;
}

const about = `
Prints seq, sender and payload, separated by tabs: text as it is, other bytes as base64. It outlives restarts of the service.

Exit codes: 0 after --count messages, or when who reads has had enough (| head -1); 130 after Ctrl-C; 1 failed.

Examples:
  sendbatch tail 2 group123
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
  let seen = 0;
  try {
    for await (const message of client.tail({ channels: [channel], uid: options.uid ?? '' }, { signal: stop.signal })) {
      await print(lineOf(message, options.json === true));
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

/** A message as a line: for people and for cut and awk, or as JSON. */
export function lineOf(message: Message, json: boolean): string {
  if (json) return toJsonString(MessageSchema, message);
  const { messageSeq, fromUid, payload } = message;
  return `${paint('dim', String(messageSeq))}\t${paint('cyan', printable(Buffer.from(fromUid)))}\t${printable(payload)}`;
}
