import { once } from 'node:events';
import { toJsonString } from '@bufbuild/protobuf';
import { type ChannelType, MessageSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import { connectOptions, connectTo } from './connect.ts';
import { parseOptions, UsageError } from './usage.ts';

const usage = `tail <channel_type> <channel_id> [--after <seq>] [--from-now] [--uid <uid>] [--count <n>] [--json] [--url <url>] [--token <credential>]`;

/** Follows a channel until it is stopped: a line a message, on stdout. */
export async function runTailCommand(
  args: readonly string[],
  defaults: { url: string; token: string },
): Promise<number> {
  const { values, positionals } = parseOptions(args, options, usage);
  const [type, channelId] = positionals;
  const channelType = Number(type) as ChannelType;
  if (channelId === undefined || positionals.length !== 2 || !(channelType >= 1 && channelType <= 12))
    throw new UsageError(usage);
  const after = values.after ?? '0';
  if (!/^\d{1,16}$/.test(after)) throw new UsageError('--after takes a sequence');
  const most = values.count === undefined ? Number.POSITIVE_INFINITY : Number(values.count);
  if (!(most >= 1)) throw new UsageError('--count takes a number of messages');
  const client = connectTo(values, defaults);
  const channel = { channelType, channelId, afterSeq: BigInt(after), fromNow: values['from-now'] === true };
  let seen = 0;
  for await (const message of client.tail({ channels: [channel], uid: values.uid ?? '' })) {
    const line =
      values.json === true
        ? toJsonString(MessageSchema, message)
        : `${message.messageSeq}\t${message.fromUid}\t${printable(message.payload)}`;
    if (!process.stdout.write(`${line}\n`)) await once(process.stdout, 'drain');
    seen++;
    if (seen >= most) break;
  }
  return 0;
}

/** Text as text, without what would move the terminal's cursor; bytes as base64. */
function printable(payload: Uint8Array): string {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(payload);
    return text.replace(/\p{Cc}/gu, ' ');
  } catch {
    return Buffer.from(payload).toString('base64');
  }
}

const options = {
  ...connectOptions,
  after: { type: 'string' },
  'from-now': { type: 'boolean' },
  uid: { type: 'string' },
  count: { type: 'string' },
  json: { type: 'boolean' },
} as const;
