import type { Assumption, Pair, PairFacts } from '../domain/permission.ts';
import { BinaryArray } from './array.ts';
import type { Db, Tx } from './database.ts';
import { run } from './prepared.ts';

const factsStatement = {
  name: 'permission facts',
  text: `
    select w.ordinal,
      i.channel_key is not null as is_made,
      coalesce(i.ban or i.send_ban, false) as is_banned,
      coalesce(i.disband, false) as is_disbanded,
      coalesce(u.member, false) as is_member,
      coalesce(u.denied or d.denied, u.denied, d.denied, false) as is_denied,
      coalesce(u.allowed or d.allowed, u.allowed, d.allowed, false) as is_allowed,
      c.channel_key is not null and exists (select from sendbatch.channel_uid a where a.channel_key = c.channel_key and a.allowed) as has_allowlist,
      coalesce(s.send_ban, false) as is_sender_banned,
      coalesce(r.allow_stranger, false) as allows_strangers,
      exists (select from sendbatch.system_uid y where y.uid = w.sender) as is_system_sender,
      exists (select from sendbatch.system_uid y where y.uid = w.receiver) as is_system_receiver
    from unnest($1::text[], $2::smallint[], $3::text[], $4::text[]) with ordinality as w(channel_id, channel_type, sender, receiver, ordinal)
    left join lateral (
      select channel_key from sendbatch.channel
      where channel_id = w.channel_id and channel_type = w.channel_type and sequence = 0 limit 1
    ) c on true
    left join lateral (select * from sendbatch.channel_info where channel_key = c.channel_key limit 1) i on true
    left join lateral (select * from sendbatch.channel_uid where channel_key = c.channel_key and uid = w.sender limit 1) u on true
    left join lateral (select * from sendbatch.person_uid where owner = w.receiver and uid = w.sender limit 1) d on true
    left join lateral (select * from sendbatch.person where uid = w.sender limit 1) s on true
    left join lateral (select * from sendbatch.person where uid = w.receiver limit 1) r on true`,
};

interface FactsRow {
  readonly ordinal: number;
  readonly is_made: boolean;
  readonly is_banned: boolean;
  readonly is_disbanded: boolean;
  readonly is_member: boolean;
  readonly is_denied: boolean;
  readonly is_allowed: boolean;
  readonly has_allowlist: boolean;
  readonly is_sender_banned: boolean;
  readonly allows_strangers: boolean;
  readonly is_system_sender: boolean;
  readonly is_system_receiver: boolean;
}

/** What is committed about these pairs, in one statement however many they are, by pair key. */
export async function readPairFacts(db: Db | Tx, pairs: readonly Pair[]): Promise<Map<string, PairFacts>> {
  const ids = new BinaryArray('text', pairs.length * 24);
  const types = new BinaryArray('smallint', pairs.length * 6);
  const senders = new BinaryArray('text', pairs.length * 24);
  const receivers = new BinaryArray('text', pairs.length * 4);
  for (const { channel, sender, receiver } of pairs) {
    ids.text(channel.id);
    types.smallint(channel.type);
    senders.text(sender);
    if (receiver === undefined) receivers.null();
    else receivers.text(receiver);
  }
  const rows = await run<FactsRow>(db, factsStatement, [
    ids.value(),
    types.value(),
    senders.value(),
    receivers.value(),
  ]);
  const facts = new Map<string, PairFacts>();
  for (const row of rows) {
    const pair = pairs[row.ordinal - 1];
    if (pair === undefined) throw new Error(`ordinal ${row.ordinal} of ${pairs.length}`);
    facts.set(pair.key, {
      isMade: row.is_made,
      isBanned: row.is_banned,
      isDisbanded: row.is_disbanded,
      isMember: row.is_member,
      isDenied: row.is_denied,
      isAllowed: row.is_allowed,
      hasAllowlist: row.has_allowlist,
      isSenderBanned: row.is_sender_banned,
      allowsStrangers: row.allows_strangers,
      isSystemSender: row.is_system_sender,
      isSystemReceiver: row.is_system_receiver,
    });
  }
  return facts;
}

/** Whether an assumption holds, as a SQL expression over six parameters from `first` on: see `assumptionValues`. */
export const assumptionHolds = (first: number) => `
  not exists (
    select from unnest($${first}::bigint[]) as w(channel_key) join sendbatch.channel_info i on i.channel_key = w.channel_key
    where i.disband or i.ban or i.send_ban)
  and not exists (
    select from unnest($${first + 1}::text[]) as w(uid) join sendbatch.person p on p.uid = w.uid where p.send_ban)
  and not exists (
    select from unnest($${first + 2}::bigint[], $${first + 3}::text[]) as w(channel_key, uid)
    where not exists (
      select from sendbatch.channel_uid u
      where u.channel_key = w.channel_key and u.uid = w.uid and u.member and not u.denied
        and (u.allowed or not exists (select from sendbatch.channel_uid a where a.channel_key = u.channel_key and a.allowed))))
  and not exists (
    select from unnest($${first + 4}::text[], $${first + 5}::text[]) as w(owner, uid)
    join sendbatch.person_uid d on d.owner = w.owner and d.uid = w.uid where d.denied)`;

/** The parameters of an assumption; undefined when one of its members' channels has no row: then it has no members. */
export function assumptionValues(
  { openChannels, senders, members, peers }: Assumption,
  channelKeys: ReadonlyMap<string, number>,
): (Buffer | null)[] | undefined {
  const channels = new BinaryArray('bigint', openChannels.length * 12);
  for (const { key } of openChannels) {
    const channelKey = channelKeys.get(key);
    // What has no row was never made, and is open.
    if (channelKey !== undefined) channels.bigint(channelKey);
  }
  const memberKeys = new BinaryArray('bigint', members.length * 12);
  for (const { channel } of members) {
    const channelKey = channelKeys.get(channel.key);
    if (channelKey === undefined) return undefined;
    memberKeys.bigint(channelKey);
  }
  const texts = (all: readonly string[]) => {
    const array = new BinaryArray('text', all.length * 24);
    for (const each of all) array.text(each);
    return array.value();
  };
  return [
    channels.value(),
    texts(senders),
    memberKeys.value(),
    texts(members.map((each) => each.uid)),
    texts(peers.map((each) => each.owner)),
    texts(peers.map((each) => each.uid)),
  ];
}
