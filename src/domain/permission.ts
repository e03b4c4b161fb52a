import { type Channel, channel, messageSequence, peerOf, personType } from './channel.ts';
import type { Reason, Refusal } from './failure.ts';
import type { Prepared } from './message.ts';

/** A sender and where it sends: permission is one decision for each. */
export interface Pair {
  /** Equal for equal pairs and for no others. */
  readonly key: string;
  readonly sender: string;
  /** Where members and lists are: the channel itself, or for a command the channel that it is a command of. */
  readonly channel: Channel;
  /** Of a person channel: the other side. */
  readonly receiver: string | undefined;
  /** It names its receivers instead of a channel. */
  readonly isToUids: boolean;
}

/** What the store says about a pair. Lists are the channel's; of a person channel, the receiver's own. */
export interface PairFacts {
  /** It was made by ChannelService: it has flags and may have members. */
  readonly isMade: boolean;
  readonly isBanned: boolean;
  readonly isDisbanded: boolean;
  readonly isMember: boolean;
  readonly isDenied: boolean;
  readonly isAllowed: boolean;
  /** Somebody is on the channel's allowlist. */
  readonly hasAllowlist: boolean;
  readonly isSenderBanned: boolean;
  readonly allowsStrangers: boolean;
  /** The sender, or the receiver, is a system uid by the store. */
  readonly isSystemSender: boolean;
  readonly isSystemReceiver: boolean;
}

/** What the settings say. */
export interface PermissionRules {
  readonly systemUids: SystemUids;
  /** The same for reading; nobody where every sender is one: to let all send is not to let all read. */
  readonly systemReaders: SystemUids;
  /** Person messages need a place on the receiver's allowlist. */
  readonly enforcePersonAllowlist: boolean;
}

/** The system uids of the settings. */
export interface SystemUids {
  has(uid: string): boolean;
}

const infoType = 6;
const customerServiceType = 3;
const visitorsType = 10;
const agentType = 11;

/** The numbers that legacy callers know the reasons by. */
const reasonCodes: Partial<Record<Reason, number>> = {
  NOT_SUBSCRIBER: 3,
  IN_DENYLIST: 4,
  CHANNEL_NOT_EXIST: 5,
  NOT_ALLOWED: 11,
  NOT_IN_ALLOWLIST: 13,
  CHANNEL_BANNED: 19,
  CHANNEL_DISBANDED: 24,
  SENDER_BANNED: 25,
};

const words = {
  NOT_SUBSCRIBER: 'is not a member of the channel; add it with AddMembers (POST /channel/subscriber_add)',
  IN_DENYLIST: 'is on the denylist',
  CHANNEL_NOT_EXIST: 'sends to a channel that was never made; make it with PutChannel (POST /channel)',
  NOT_ALLOWED: 'is no side of the channel',
  NOT_IN_ALLOWLIST: 'is not on the allowlist',
  CHANNEL_BANNED: 'sends to a channel that is banned',
  CHANNEL_DISBANDED: 'sends to a channel that was disbanded',
  SENDER_BANNED: 'is banned from sending',
} as const;
type Forbidden = keyof typeof words;

/** The pair of a message. */
export function pairOf(message: Prepared): Pair {
  const { type, id } = message.channel;
  const base = channel(type, id, messageSequence);
  const receiver = type === personType ? peerOf(message.fromUid, id) : undefined;
  return { key: pairKeyOf(message), sender: message.fromUid, channel: base, receiver, isToUids: message.isToUids };
}

/** The key of a message's pair. A channel's key holds no line feed before its id, and a uid may: the length tells where it ends. */
export function pairKeyOf(message: Prepared): string {
  return keyOf(message.fromUid, message.channel);
}

function keyOf(uid: string, { type, id }: Channel): string {
  return `${uid.length}\n${uid}${type}\n${id}`;
}

/**
 * Whether a sender may send; undefined = it may. The order is WuKongIM v3's (permission.go), but that a disbanded channel takes nothing from anybody, of
 * whatever type: first the open types, then system uids, the sender's own ban, then persons by the receiver's lists, and all others by
 * membership and the channel's lists.
 */
export function forbidden(pair: Pair, facts: PairFacts, rules: PermissionRules): Refusal | undefined {
  const reason = reasonOf(pair, facts, rules);
  if (reason === undefined) return undefined;
  return refusalOf(reason, pair, `from_uid ${JSON.stringify(pair.sender)} ${words[reason]}`);
}

function refusalOf(reason: Forbidden, pair: Pair, message: string): Refusal {
  return {
    reason,
    message,
    metadata: {
      channel_id: pair.channel.id,
      channel_type: String(pair.channel.type),
      from_uid: pair.sender,
      reason_code: String(reasonCodes[reason]),
    },
  };
}

/** Whether a uid may read a channel's messages; undefined = it may. Members and sides do; an allowlist and a ban are about sending. */
export function unreadable(pair: Pair, facts: PairFacts, { systemReaders }: PermissionRules): Refusal | undefined {
  const reason = unreadableReason(pair, facts, systemReaders);
  return reason && refusalOf(reason, pair, `${JSON.stringify(pair.sender)} ${reads[reason]}`);
}

const reads = {
  NOT_SUBSCRIBER: 'is not a member of the channel',
  IN_DENYLIST: 'is on the channel’s denylist',
  CHANNEL_DISBANDED: 'reads a channel that was disbanded',
  NOT_ALLOWED: 'is no side of the channel',
} as const;

function unreadableReason(
  { channel: from, sender: uid }: Pair,
  facts: PairFacts,
  systemUids: SystemUids,
): keyof typeof reads | undefined {
  if (facts.isDisbanded) return 'CHANNEL_DISBANDED';
  if (from.type === infoType || from.type === customerServiceType) return undefined;
  if (from.type === personType || from.type === agentType)
    return from.id.split('@').includes(uid) ? undefined : 'NOT_ALLOWED';
  if (systemUids.has(uid) || facts.isSystemSender) return undefined;
  if (from.type === visitorsType && from.id === uid) return undefined;
  if (facts.isDenied) return 'IN_DENYLIST';
  return facts.isMember ? undefined : 'NOT_SUBSCRIBER';
}

/** A uid and a channel that it wants to read. */
export function readingPair(uid: string, from: Channel): Pair {
  return { key: keyOf(uid, from), sender: uid, channel: from, receiver: undefined, isToUids: false };
}

function reasonOf(
  pair: Pair,
  facts: PairFacts,
  { systemUids, enforcePersonAllowlist }: PermissionRules,
): Forbidden | undefined {
  const { channel: to, sender, receiver } = pair;
  if (facts.isDisbanded) return 'CHANNEL_DISBANDED';
  if (to.type === infoType || to.type === customerServiceType) return undefined;
  if (systemUids.has(sender) || facts.isSystemSender) return undefined;
  if (facts.isSenderBanned) return 'SENDER_BANNED';
  if (pair.isToUids) return undefined;
  if (receiver !== undefined) {
    if (systemUids.has(receiver) || facts.isSystemReceiver) return undefined;
    if (facts.isDenied) return 'IN_DENYLIST';
    if (enforcePersonAllowlist && !facts.isAllowed && !facts.allowsStrangers) return 'NOT_IN_ALLOWLIST';
    return undefined;
  }
  if (to.type === agentType) return to.id.split('@').includes(sender) ? undefined : 'NOT_ALLOWED';
  if (to.type === visitorsType && to.id === sender) return undefined;
  if (!facts.isMade) return 'CHANNEL_NOT_EXIST';
  if (facts.isBanned) return 'CHANNEL_BANNED';
  if (facts.isDenied) return 'IN_DENYLIST';
  if (!facts.isMember) return 'NOT_SUBSCRIBER';
  if (facts.hasAllowlist && !facts.isAllowed) return 'NOT_IN_ALLOWLIST';
  return undefined;
}

/**
 * What has to hold for all pairs of a group so that none of them is forbidden. It is narrower than `forbidden`: where it does not hold the facts are
 * read and decided on.
 */
export interface Assumption {
  /** Neither banned nor disbanded. */
  readonly openChannels: readonly Channel[];
  /** Not banned. */
  readonly senders: readonly string[];
  /** Members that no list of their channel keeps out. */
  readonly members: readonly { readonly channel: Channel; readonly uid: string }[];
  /** Not on the owner's denylist. */
  readonly peers: readonly { readonly owner: string; readonly uid: string }[];
}

/** The assumption for these messages; undefined when only the facts can tell. */
export function assume(messages: Iterable<Prepared>, rules: PermissionRules): Assumption | undefined {
  const { systemUids, enforcePersonAllowlist } = rules;
  const channels = new Map<string, Channel>();
  const senders = new Set<string>();
  const members: { channel: Channel; uid: string }[] = [];
  const peers: { owner: string; uid: string }[] = [];
  const seen = new Set<string>();
  for (const message of messages) {
    const isSystem = systemUids.has(message.fromUid);
    if (isSystem && channels.has(message.channel.key)) continue;
    const key = isSystem ? message.channel.key : pairKeyOf(message);
    if (seen.has(key)) continue;
    seen.add(key);
    const pair = pairOf(message);
    channels.set(pair.channel.key, pair.channel);
    if (isSystem) continue;
    const { type, id } = pair.channel;
    if (type === infoType || type === customerServiceType) continue;
    senders.add(pair.sender);
    if (pair.isToUids) continue;
    if (pair.receiver !== undefined) {
      if (enforcePersonAllowlist) return undefined;
      if (!systemUids.has(pair.receiver)) peers.push({ owner: pair.receiver, uid: pair.sender });
    } else if (type === agentType) {
      if (!id.split('@').includes(pair.sender)) return undefined;
    } else if (!(type === visitorsType && id === pair.sender)) {
      members.push({ channel: pair.channel, uid: pair.sender });
    }
  }
  return { openChannels: [...channels.values()], senders: [...senders], members, peers };
}
