import { type Command, InvalidArgumentError } from 'commander';
import { type ChannelType, ChannelTypeSchema } from '../../gen/sendbatch/v1/message_pb.ts';

/** group, customer-service, … as the numbers that the contract has. */
const typesByName = new Map(
  ChannelTypeSchema.values
    .filter(({ number }) => number > 0)
    .map(({ localName, number }) => [nameOf(localName), number]),
);

/** The types by name and number, for people. */
export const channelTypes = [...typesByName].map(([name, number]) => ({ name, number }));

function nameOf(text: string): string {
  return text.toLowerCase().replaceAll('_', '-');
}

/** A parser of channel types: 1 to 12, or a name such as group. */
export function channelType(text: string): ChannelType {
  const value = /^\d{1,2}$/.test(text) ? Number(text) : typesByName.get(nameOf(text));
  const known = [...typesByName.values()];
  if (value === undefined || !known.includes(value))
    throw new InvalidArgumentError(`It takes 1 to ${known.at(-1)}, or ${[...typesByName.keys()].join(', ')}.`);
  return value as ChannelType;
}

/** The name of a channel type, as the parser takes it. */
export function channelTypeName(type: number): string {
  return [...typesByName].find(([, number]) => number === type)?.[0] ?? String(type);
}

/** Puts `<channel_type> <channel_id>` before what else a command takes. */
export function ofChannel(command: Command): Command {
  return command
    .argument('<channel_type>', '1 to 12, or a name: person, group, …', channelType)
    .argument('<channel_id>', 'the channel’s id; of a person channel the two uids joined with @');
}
