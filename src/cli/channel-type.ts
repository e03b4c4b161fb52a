import { type Command, InvalidArgumentError } from 'commander';
import type { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { parseChannelType } from '../message-files/channel-types.ts';

export { channelTypeName } from '../message-files/channel-types.ts';

/** A parser of channel types: 1 to 12, or a name such as group. */
export function channelType(text: string): ChannelType {
  try {
    return parseChannelType(text);
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
}

/** Adds the arguments `<channel_type> <channel_id>`. */
export function ofChannel(command: Command): Command {
  return command
    .argument('<channel_type>', 'channel type: 1 to 12, or a name such as person or group', channelType)
    .argument('<channel_id>', 'channel id; for a person channel the two uids joined by @');
}
