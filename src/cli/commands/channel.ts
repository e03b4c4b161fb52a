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
import { addChanges } from './channel-changes.ts';
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
    .summary('channels: flags, members, lists, messages')
    .description('Channels, their members and lists (scope admin), and their messages (scope read).')
    .addHelpText('after', channelAbout);

  withExamples(
    calling(ofChannel(channel.command('info').description('Shows the flags of a channel and its last sequence.'))),
    ['sendbatch channel info group friends', 'sendbatch channel info 2 friends --json | jq .last_seq'],
  ).action(info);

  const create = ofChannel(
    channel.command('create').description('Creates a channel, or replaces its flags, and adds members.'),
  )
    .option('--member <uid>', 'a member, or several separated by commas; repeatable', listed)
    .option('--members-file <file>', 'file of members, one per line; - is standard input')
    .option('--reset', 'remove the current members first')
    .option('--large', 'a channel with a very large number of members')
    .option('--ban', 'only system uids may send')
    .option('--send-ban', 'the same; for a user (type person): the user may not send')
    .option('--disband', 'disband: no sending and no reading')
    .option('--allow-stranger', 'for a user: accept messages from uids that are not on its allowlist');
  withExamples(calling(create), [
    'sendbatch channel create group friends --member alice,bob',
    'sendbatch channel create group everybody --large --members-file uids.txt --reset',
  ]).action(put);

  withExamples(
    calling(
      ofChannel(
        channel
          .command('delete')
          .description('Disbands a channel: no sending and no reading any more; its messages are kept.'),
      ),
    ),
    ['sendbatch channel delete group friends'],
  ).action(async (channelType: ChannelType, channelId: string, options: ConnectOptions) => {
    await connectTo(options).channels.deleteChannel({ channelType, channelId });
    await print(options.json ? '{}' : `${channelTypeName(channelType)} ${plain(channelId)} is disbanded`);
  });

  const messages = ofChannel(
    channel
      .command('messages')
      .description('Prints the messages of a channel, oldest first. To follow a channel, use tail.'),
  )
    .option('--after <seq>', 'only messages after this sequence', sequence)
    .option('--before <seq>', 'only messages before this sequence', sequence)
    .option('--limit <n>', 'at most n messages', wholeNumber(1, Number.MAX_SAFE_INTEGER), 100)
    .option('--all', 'no limit')
    .option('--newest', 'newest first, from the end of the range')
    .option('--uid <uid>', 'only messages this user may read')
    .option('--from-uid <uid>', 'only messages from this sender')
    .option('--tag-key <word>', 'only messages with this tag')
    .option('--stream-no <word>', 'only messages of this stream')
    .option('--since <time>', 'only messages accepted at this time or later, such as 2026-01-31T12:00Z', time)
    .option('--until <time>', 'only messages accepted before this time', time);
  withExamples(calling(messages), [
    'sendbatch channel messages group friends --newest --limit 10',
    'sendbatch channel messages person alice@bob --all --json > alice-bob.ndjson',
  ]).action(printMessages);

  addChanges(channel);
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

/**
 * Undefined if the credential has no scope to read, or the channel is a user's own, which has no
 * sequence.
 */
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
  const members = subscribers.length === 0 ? '' : `, members added: ${subscribers.length}`;
  await print(`${channelTypeName(channelType)} ${plain(channelId)} is stored${members}`);
}

/** Page size: the maximum of the service. */
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
