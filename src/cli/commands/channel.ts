import { timestampDate, timestampFromDate } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError } from '@connectrpc/connect';
import type { Command } from 'commander';
import type { ChannelType } from '../../../gen/sendbatch/v1/message_pb.ts';
import { channelTypeName, ofChannel } from '../channel-type.ts';
import { type ConnectOptions, calling, connectTo } from '../connect.ts';
import { messageLine } from '../output/message-line.ts';
import { paint, plain, print, printJson } from '../output/output.ts';
import { time } from '../time.ts';
import { listed, sequence, wholeNumber, withExamples } from '../usage.ts';
import { addLists, channelAbout, uidsOf } from './channel-lists.ts';

interface FlagOptions {
  readonly large?: boolean;
  readonly ban?: boolean;
  readonly disband?: boolean;
  readonly sendBan?: boolean;
  readonly allowStranger?: boolean;
}

interface CreateOptions extends ConnectOptions, FlagOptions {
  readonly member?: string[];
  readonly membersFile?: string;
  readonly reset?: boolean;
}

interface MessagesOptions extends ConnectOptions {
  readonly after?: number;
  readonly before?: number;
  readonly limit: number;
  readonly all?: boolean;
  readonly newest?: boolean;
  readonly uid?: string;
  readonly fromUid?: string;
  readonly tagKey?: string;
  readonly streamNo?: string;
  readonly since?: Date;
  readonly until?: Date;
}

export function addChannel(program: Command): void {
  const channel = program
    .command('channel')
    .summary('channels: what they are, members, lists, messages')
    .description('Channels, their members and lists (scope admin), and their messages (scope read).')
    .addHelpText('after', channelAbout);

  withExamples(
    calling(ofChannel(channel.command('info').description('Shows what a channel is, and its last sequence.'))),
    ['sendbatch channel info group friends', 'sendbatch channel info 2 friends --json | jq .last_seq'],
  ).action(info);

  const create = ofChannel(
    channel.command('create').description('Makes a channel, or sets its flags, all of them, and adds members.'),
  )
    .option('--member <uid>', 'a member, or several with commas; may be given more than once', listed)
    .option('--members-file <file>', 'members, a line each; - is standard input')
    .option('--reset', 'the members that it has are removed first')
    .option('--large', 'a channel of very many')
    .option('--ban', 'nobody but system uids may send')
    .option('--send-ban', 'the same; of a user (type person): it may send nothing')
    .option('--disband', 'nobody may send or read any more')
    .option('--allow-stranger', 'of a user: who is not on its allowlist may write too');
  withExamples(calling(create), [
    'sendbatch channel create group friends --member alice,bob',
    'sendbatch channel create group everybody --large --members-file uids.txt --reset',
  ]).action(put);

  withExamples(
    calling(
      ofChannel(
        channel
          .command('delete')
          .description('Disbands a channel: nobody may send or read any more; messages are kept.'),
      ),
    ),
    ['sendbatch channel delete group friends'],
  ).action(async (channelType: ChannelType, channelId: string, options: ConnectOptions) => {
    await connectTo(options).channels.deleteChannel({ channelType, channelId });
    await print(options.json ? '{}' : `${channelTypeName(channelType)} ${plain(channelId)} is disbanded`);
  });

  const messages = ofChannel(
    channel.command('messages').description('Prints messages of a channel, oldest first; tail follows it.'),
  )
    .option('--after <seq>', 'only those after this sequence', sequence)
    .option('--before <seq>', 'only those before this sequence', sequence)
    .option('--limit <n>', 'so many at most', wholeNumber(1, Number.MAX_SAFE_INTEGER), 100)
    .option('--all', 'no limit')
    .option('--newest', 'newest first: the last ones of the range')
    .option('--uid <uid>', 'only what this user may read')
    .option('--from-uid <uid>', 'only those of this sender')
    .option('--tag-key <word>', 'only those with this tag')
    .option('--stream-no <word>', 'only those of this stream')
    .option('--since <time>', 'only those accepted then or later, such as 2026-01-31T12:00Z', time)
    .option('--until <time>', 'only those accepted before', time);
  withExamples(calling(messages), [
    'sendbatch channel messages group friends --newest --limit 10',
    'sendbatch channel messages person alice@bob --all --json > alice-bob.ndjson',
  ]).action(printMessages);

  addLists(channel);
}

async function info(channelType: ChannelType, channelId: string, options: ConnectOptions): Promise<void> {
  const { channels, client } = connectTo(options);
  const { channel } = await channels.getChannel({ channelType, channelId });
  const flags = {
    large: channel?.large === 1,
    ban: channel?.ban === 1,
    disband: channel?.disband === 1,
    send_ban: channel?.sendBan === 1,
    allow_stranger: channel?.allowStranger === 1,
  };
  const lastSeq = await lastSeqOf(() => client.rpc.getMaxMessageSeq({ channelType, channelId }));
  if (options.json) {
    const last = lastSeq === undefined ? {} : { last_seq: lastSeq };
    return await printJson(JSON.stringify({ channel_type: channelType, channel_id: channelId, ...flags, ...last }));
  }
  const set = Object.entries(flags).flatMap(([name, on]) => (on ? [paint('yellow', name)] : []));
  await print(`channel   ${channelTypeName(channelType)} (${channelType}) ${plain(channelId)}`);
  await print(`flags     ${set.join(', ') || 'none'}`);
  if (lastSeq !== undefined) await print(`last seq  ${lastSeq}`);
}

/** Who may see to channels need not be one who may read them; of a user's own lists there is no sequence. */
async function lastSeqOf(ask: () => Promise<{ messageSeq: bigint }>): Promise<number | undefined> {
  try {
    return Number((await ask()).messageSeq);
  } catch (error) {
    if ([Code.PermissionDenied, Code.InvalidArgument].includes(ConnectError.from(error).code)) return undefined;
    throw error;
  }
}

async function put(channelType: ChannelType, channelId: string, options: CreateOptions): Promise<void> {
  const bit = (flag: boolean | undefined) => (flag ? 1 : 0);
  const subscribers = uidsOf(options.member ?? [], options.membersFile);
  await connectTo(options).channels.putChannel({
    channelType,
    channelId,
    large: bit(options.large),
    ban: bit(options.ban),
    disband: bit(options.disband),
    sendBan: bit(options.sendBan),
    allowStranger: bit(options.allowStranger),
    reset: bit(options.reset),
    subscribers,
  });
  if (options.json) return await print(JSON.stringify({ members_added: subscribers.length }));
  const members = subscribers.length === 0 ? '' : `, and ${subscribers.length} are members`;
  await print(`${channelTypeName(channelType)} ${plain(channelId)} is as asked${members}`);
}

/** Messages that one call asks for: the most that the service gives. */
const pageMessages = 1000;

async function printMessages(channelType: ChannelType, channelId: string, options: MessagesOptions): Promise<void> {
  const { client } = connectTo(options);
  let left = options.all ? Number.POSITIVE_INFINITY : options.limit;
  let after = BigInt(options.after ?? 0);
  let before = BigInt(options.before ?? 0);
  for (let more = true; more && left > 0; ) {
    const page = await client.rpc.listMessages({
      channelType,
      channelId,
      afterSeq: after,
      beforeSeq: before,
      limit: Math.min(left, pageMessages),
      descending: options.newest === true,
      uid: options.uid ?? '',
      fromUid: options.fromUid ?? '',
      tagKey: options.tagKey ?? '',
      streamNo: options.streamNo ?? '',
      ...(options.since === undefined ? {} : { since: timestampFromDate(options.since) }),
      ...(options.until === undefined ? {} : { until: timestampFromDate(options.until) }),
    });
    for (const message of page.messages) {
      const when = message.timestamp === undefined ? '' : timestampDate(message.timestamp).toISOString();
      await print(options.json ? messageLine(message, true) : `${paint('dim', when)}\t${messageLine(message, false)}`);
    }
    left -= page.messages.length;
    const last = page.messages.at(-1)?.messageSeq;
    more = page.more && last !== undefined;
    if (options.newest) before = last ?? before;
    else after = last ?? after;
  }
}
