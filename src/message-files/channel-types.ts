import { type ChannelType, ChannelTypeSchema } from '../../gen/client/sendbatch/v1/message_pb.ts';

/** Channel types by name (person, group, customer-service, …), from the contract. */
const typesByName = new Map(
  ChannelTypeSchema.values
    .filter(({ number }) => number > 0)
    .map(({ localName, number }) => [nameOf(localName), number]),
);

/** Channel types with name and number. */
export const channelTypes = [...typesByName].map(([name, number]) => ({ name, number }));

function nameOf(text: string): string {
  return text.toLowerCase().replaceAll('_', '-');
}

/** Parses 1 to 12, or a name such as group. */
export function parseChannelType(text: string): ChannelType {
  const value = /^\d{1,2}$/.test(text) ? Number(text) : typesByName.get(nameOf(text));
  const known = [...typesByName.values()];
  if (value === undefined || !known.includes(value))
    throw new Error(`Expected 1 to ${known.at(-1)}, or ${[...typesByName.keys()].join(', ')}.`);
  return value as ChannelType;
}

/** The name of a channel type, as the parser takes it. */
export function channelTypeName(type: number): string {
  return [...typesByName].find(([, number]) => number === type)?.[0] ?? String(type);
}
