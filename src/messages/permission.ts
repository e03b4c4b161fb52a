import { agentType, type Channel, channel, messageSequence, peerOf, personType } from './channel.ts';
import type { PreparedMessage } from './message.ts';
import type { Reason, Refusal } from './service-error.ts';

/** A sender and a channel: permission is decided once per pair. */
export interface Pair {
  /** Equal for equal pairs and for no others. */
  readonly key: string;
  readonly sender: string;
  /** The channel whose members and lists decide: for a command the channel that it belongs to. */
  readonly channel: Channel;
  /**
   * Users whose own lists decide: the peer of a person or agent channel, the receivers of a
   * command. Never the sender.
   */
  readonly receivers: readonly string[];
  /** Whether the message names receivers instead of a channel. */
  readonly isToUids: boolean;
}

/** What the store knows about a pair. */
export interface PairFacts {
  /** Whether ChannelService created it: it has flags and may have members. */
  readonly isMade: boolean;
  readonly isBanned: boolean;
  readonly isDisbanded: boolean;
  readonly isMember: boolean;
  /** Whether the sender is on the channel's own lists. */
  readonly isDenied: boolean;
  readonly isAllowed: boolean;
  /** Whether the channel's allowlist has an entry. */
  readonly hasAllowlist: boolean;
  readonly isSenderBanned: boolean;
  /** Whether the sender is a system uid in the store. */
  readonly isSystemSender: boolean;
  /** The receivers whose denylist has the sender, without system uids of the store. */
  readonly deniedBy: readonly string[];
  /**
   * The receivers that neither list the sender nor allow strangers. Read only if person allowlists
   * are enforced.
   */
  readonly notAllowedBy: readonly string[];
}

/** The settings that decide about permission. */
export interface PermissionRules {
  readonly systemUids: SystemUids;
  /**
   * System uids that may read every channel; empty if SYSTEM_UIDS is `all`: all may send, not all
   * may read.
   */
  readonly systemReaders: SystemUids;
  /** Whether person messages need an entry on the receiver's allowlist. */
  readonly enforcePersonAllowlist: boolean;
}

/** The system uids of the settings. */
export interface SystemUids {
  has(uid: string): boolean;
}

const infoType = 6;
const customerServiceType = 3;
const visitorsType = 10;

/** The reason codes of the legacy server. */
export const reasonCodes: Partial<Record<Reason, number>> = {
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
  CHANNEL_NOT_EXIST: 'sends to a channel that does not exist; create it with PutChannel (POST /channel)',
  NOT_ALLOWED: 'is not one of the two sides of the channel',
  NOT_IN_ALLOWLIST: 'is not on the allowlist',
  CHANNEL_BANNED: 'sends to a banned channel',
  CHANNEL_DISBANDED: 'sends to a disbanded channel',
  SENDER_BANNED: 'is banned from sending',
} as const;
type Forbidden = keyof typeof words;

/** The pair of a message. */
export function pairOf(message: PreparedMessage): Pair {
  return {
    key: pairKeyOf(message),
    sender: message.fromUid,
    channel: baseOf(message.channel),
    receivers: receiversOf(message).filter((uid) => uid !== message.fromUid),
    isToUids: message.isToUids,
  };
}

/** The channel whose lists decide: for a channel of commands the one it belongs to. */
function baseOf(to: Channel): Channel {
  return to.sequence === messageSequence ? to : channel(to.type, to.id, messageSequence);
}

function receiversOf({ channel: { type, id }, fromUid, isToUids, subscribers }: PreparedMessage): readonly string[] {
  if (isToUids) return subscribers;
  if (type === personType) return [peerOf(fromUid, id)];
  return type === agentType ? id.split('@') : [];
}

/** The key of a message's pair. A uid may hold any character: its length says where it ends. */
export function pairKeyOf(message: PreparedMessage): string {
  return keyOf(message.fromUid, message.channel);
}

function keyOf(uid: string, { type, id }: Channel): string {
  return `${uid.length}\n${uid}${type}\n${id}`;
}

/**
 * Decides whether a sender may send; undefined if it may. The order is WuKongIM v3's
 * (permission.go), with two exceptions: a disbanded channel takes nothing from any sender, and open
 * channel types need no membership but obey every ban and list.
 */
export function sendDenial(pair: Pair, facts: PairFacts, rules: PermissionRules): Refusal | undefined {
  const found = reasonOf(pair, facts, rules);
  if (found === undefined) return undefined;
  const refusal = sendRefusal(pair, found);
  const asOutsider = outsiderReason(pair, facts, rules);
  return asOutsider === undefined || asOutsider === found.reason
    ? refusal
    : { ...refusal, forOutsiders: sendRefusal(pair, { reason: asOutsider }) };
}

/** Why a sender may not send, and the receivers whose own lists say so. */
interface Found {
  readonly reason: Forbidden;
  readonly by?: readonly string[];
}

/** Receivers that a refusal names at most; the rest are counted. */
const receiversNamed = 10;

function sendRefusal(pair: Pair, { reason, by = [] }: Found): Refusal {
  const sender = `from_uid ${JSON.stringify(pair.sender)}`;
  if (!pair.isToUids || by.length === 0) return refusalOf(reason, pair, `${sender} ${words[reason]}`);
  const named = by.slice(0, receiversNamed);
  const more = by.length > named.length ? ` and ${by.length - named.length} more` : '';
  const refusal = refusalOf(
    reason,
    pair,
    `${sender} ${words[reason]} of ${named.map((uid) => JSON.stringify(uid)).join(', ')}${more}; leave them out of subscribers`,
  );
  return { ...refusal, metadata: { ...refusal.metadata, receivers: JSON.stringify(named), count: String(by.length) } };
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

/**
 * Decides whether a uid may read a channel; undefined if it may. Members may: allowlists and bans
 * are about sending.
 */
export function readDenial(pair: Pair, facts: PairFacts, { systemReaders }: PermissionRules): Refusal | undefined {
  const reason = unreadableReason(pair, facts, systemReaders);
  return reason && refusalOf(reason, pair, `${JSON.stringify(pair.sender)} ${reads[reason]}`);
}

const reads = {
  NOT_SUBSCRIBER: 'is not a member of the channel',
  IN_DENYLIST: "is on the channel's denylist",
  CHANNEL_DISBANDED: 'reads a disbanded channel',
  NOT_ALLOWED: 'is not one of the two sides of the channel',
} as const;

/** Peers and members first: an outsider must not learn the state of a channel. */
function unreadableReason(
  { channel: from, sender: uid }: Pair,
  facts: PairFacts,
  systemUids: SystemUids,
): keyof typeof reads | undefined {
  const disbanded = facts.isDisbanded ? 'CHANNEL_DISBANDED' : undefined;
  if (isOpen(from)) return disbanded;
  if (from.type === personType || from.type === agentType)
    return from.id.split('@').includes(uid) ? disbanded : 'NOT_ALLOWED';
  if (systemUids.has(uid) || facts.isSystemSender) return disbanded;
  if (from.type === visitorsType && from.id === uid) return disbanded;
  if (!facts.isMember) return 'NOT_SUBSCRIBER';
  return disbanded ?? (facts.isDenied ? 'IN_DENYLIST' : undefined);
}

/** Channel types that any user may send to and read. */
function isOpen({ type }: Channel): boolean {
  return type === infoType || type === customerServiceType;
}

/** A uid and the channel that it reads. */
export function readingPair(uid: string, from: Channel): Pair {
  return { key: keyOf(uid, from), sender: uid, channel: from, receivers: [], isToUids: false };
}

function reasonOf(
  pair: Pair,
  facts: PairFacts,
  { systemUids, enforcePersonAllowlist }: PermissionRules,
): Found | undefined {
  const { channel: to, sender } = pair;
  if (facts.isDisbanded) return { reason: 'CHANNEL_DISBANDED' };
  if (systemUids.has(sender) || facts.isSystemSender) return undefined;
  if (facts.isSenderBanned) return { reason: 'SENDER_BANNED' };
  if (to.type === agentType && !to.id.split('@').includes(sender)) return { reason: 'NOT_ALLOWED' };
  const deniedBy = facts.deniedBy.filter((uid) => !systemUids.has(uid));
  if (deniedBy.length > 0) return { reason: 'IN_DENYLIST', by: deniedBy };
  const notAllowedBy = enforcePersonAllowlist ? facts.notAllowedBy.filter((uid) => !systemUids.has(uid)) : [];
  if (notAllowedBy.length > 0) return { reason: 'NOT_IN_ALLOWLIST', by: notAllowedBy };
  if (pair.isToUids || to.type === personType) return undefined;
  const asksMembership = needsMembership(to, sender);
  if (asksMembership && !facts.isMade) return { reason: 'CHANNEL_NOT_EXIST' };
  if (facts.isBanned) return { reason: 'CHANNEL_BANNED' };
  if (facts.isDenied) return { reason: 'IN_DENYLIST' };
  if (asksMembership && !facts.isMember) return { reason: 'NOT_SUBSCRIBER' };
  if (facts.hasAllowlist && !facts.isAllowed) return { reason: 'NOT_IN_ALLOWLIST' };
  return undefined;
}

/**
 * Channel types in which only members send; in all others the bans and lists of the channel decide.
 */
function needsMembership(to: Channel, sender: string): boolean {
  return !isOpen(to) && to.type !== agentType && !(to.type === visitorsType && to.id === sender);
}

/**
 * The one reason that an outsider receives, whether the channel exists or not; undefined if the
 * sender is no outsider.
 */
function outsiderReason(
  { channel: to, sender, isToUids }: Pair,
  facts: PairFacts,
  { systemUids }: PermissionRules,
): Forbidden | undefined {
  if (isToUids || to.type === personType || !needsMembership(to, sender)) return undefined;
  if (facts.isMember || systemUids.has(sender) || facts.isSystemSender) return undefined;
  return facts.isSenderBanned ? 'SENDER_BANNED' : 'NOT_SUBSCRIBER';
}

/**
 * What must hold for all pairs of a group so that none of them is denied. It is stricter than
 * `sendDenial`: if it fails, the facts are read and decided on.
 */
export interface PermissionPrecondition {
  /** Channels that must be neither banned nor disbanded. */
  readonly openChannels: readonly Channel[];
  /** Senders that must not be banned. */
  readonly senders: readonly string[];
  /** Senders that must be members and denied by no list of their channel. */
  readonly members: readonly { readonly channel: Channel; readonly uid: string }[];
  /** Senders that need no membership and must be denied by no list of the channel. */
  readonly guests: readonly { readonly channel: Channel; readonly uid: string }[];
  /** Senders that must not be on the denylist of `owner`. */
  readonly peers: readonly { readonly owner: string; readonly uid: string }[];
}

/** The precondition for these messages; undefined when only the facts can decide. */
export function preconditionsFor(
  messages: Iterable<PreparedMessage>,
  rules: PermissionRules,
): PermissionPrecondition | undefined {
  const { systemUids, enforcePersonAllowlist } = rules;
  const channels = new Map<string, Channel>();
  const senders = new Set<string>();
  const members: { channel: Channel; uid: string }[] = [];
  const guests: { channel: Channel; uid: string }[] = [];
  const peers: { owner: string; uid: string }[] = [];
  const seen = new Set<string>();
  for (const message of messages) {
    const base = baseOf(message.channel);
    channels.set(base.key, base);
    if (systemUids.has(message.fromUid)) continue;
    const key = pairKeyOf(message);
    if (seen.has(key)) continue;
    seen.add(key);
    const pair = pairOf(message);
    senders.add(pair.sender);
    const { channel: to, sender: uid } = pair;
    if (to.type === agentType && !to.id.split('@').includes(uid)) return undefined;
    for (const owner of pair.receivers) {
      if (systemUids.has(owner)) continue;
      if (enforcePersonAllowlist) return undefined;
      peers.push({ owner, uid });
    }
    if (pair.isToUids || to.type === personType) continue;
    (needsMembership(to, uid) ? members : guests).push({ channel: to, uid });
  }
  return { openChannels: [...channels.values()], senders: [...senders], members, guests, peers };
}
