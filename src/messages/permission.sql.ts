import { BinaryArray } from '../postgres/binary-array.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import { all, Statement } from '../postgres/sql.ts';
import type { Pair, PairFacts, PermissionPrecondition, PermissionRules } from './permission.ts';

const factsStatement = new Statement<FactsRow>({
  name: 'permission facts',
  text: `
    select w.ordinal,
      i.channel_key is not null as is_made,
      coalesce(i.ban or i.send_ban, false) as is_banned,
      coalesce(i.disband, false) as is_disbanded,
      coalesce(u.member, false) as is_member,
      coalesce(u.denied, false) as is_denied,
      coalesce(u.allowed, false) as is_allowed,
      c.channel_key is not null and exists (select from sendbatch.channel_uid a where a.channel_key = c.channel_key and a.allowed) as has_allowlist,
      coalesce(s.send_ban, false) as is_sender_banned,
      exists (select from sendbatch.system_uid y where y.uid = w.sender) as is_system_sender
    from unnest($1::text[], $2::smallint[], $3::text[]) with ordinality as w(channel_id, channel_type, sender, ordinal)
    left join lateral (
      select channel_key from sendbatch.channel
      where channel_id = w.channel_id and channel_type = w.channel_type and sequence = 0 limit 1
    ) c on true
    left join lateral (select * from sendbatch.channel_info where channel_key = c.channel_key limit 1) i on true
    left join lateral (select * from sendbatch.channel_uid where channel_key = c.channel_key and uid = w.sender limit 1) u on true
    left join lateral (select * from sendbatch.person where uid = w.sender limit 1) s on true`,
});

/**
 * Receivers whose own lists deny the sender; the second half only if person allowlists are enforced
 * ($3).
 */
const receiversStatement = new Statement<{ ordinal: number; denied: boolean }>({
  name: 'receivers that keep senders out',
  text: `
    select w.ordinal, coalesce(d.denied, false) as denied
    from unnest($1::text[], $2::text[]) with ordinality as w(receiver, sender, ordinal)
    left join lateral (select denied, allowed from sendbatch.person_uid where owner = w.receiver and uid = w.sender limit 1) d on true
    left join lateral (select allow_stranger from sendbatch.person where uid = w.receiver limit 1) r on true
    where (d.denied or ($3::boolean and d.allowed is not true and r.allow_stranger is not true))
      and not exists (select from sendbatch.system_uid y where y.uid = w.receiver)`,
});

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
  readonly is_system_sender: boolean;
}

/**
 * Reads the committed facts of these pairs, by pair key: one statement, and one more where
 * receivers have lists.
 */
export async function readPairFacts(
  db: Db | Tx,
  pairs: readonly Pair[],
  { enforcePersonAllowlist }: Pick<PermissionRules, 'enforcePersonAllowlist'>,
): Promise<Map<string, PairFacts>> {
  const ids = new BinaryArray('text', pairs.length * 24);
  const types = new BinaryArray('smallint', pairs.length * 6);
  const senders = new BinaryArray('text', pairs.length * 24);
  for (const { channel, sender } of pairs) {
    ids.text(channel.id);
    types.smallint(channel.type);
    senders.text(sender);
  }
  const [rows, refusers] = await all([
    factsStatement.run(db, [ids.value(), types.value(), senders.value()]),
    readRefusers(db, pairs, enforcePersonAllowlist),
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
      isSystemSender: row.is_system_sender,
      deniedBy: refusers.get(pair)?.deniedBy ?? [],
      notAllowedBy: refusers.get(pair)?.notAllowedBy ?? [],
    });
  }
  return facts;
}

/** Receivers whose own lists deny the sender of a pair. */
interface Refusers {
  readonly deniedBy: string[];
  readonly notAllowedBy: string[];
}

async function readRefusers(
  db: Db | Tx,
  pairs: readonly Pair[],
  enforcePersonAllowlist: boolean,
): Promise<Map<Pair, Refusers>> {
  const asked = pairs.flatMap((pair) => pair.receivers.map((receiver) => ({ pair, receiver })));
  const refusers = new Map<Pair, Refusers>();
  if (asked.length === 0) return refusers;
  const receivers = new BinaryArray('text', asked.length * 24);
  const senders = new BinaryArray('text', asked.length * 24);
  for (const { pair, receiver } of asked) {
    receivers.text(receiver);
    senders.text(pair.sender);
  }
  const rows = await receiversStatement.run(db, [receivers.value(), senders.value(), enforcePersonAllowlist]);
  for (const { ordinal, denied } of rows) {
    const { pair, receiver } = asked[ordinal - 1] as (typeof asked)[number];
    const known = refusers.get(pair) ?? { deniedBy: [], notAllowedBy: [] };
    refusers.set(pair, known);
    (denied ? known.deniedBy : known.notAllowedBy).push(receiver);
  }
  return refusers;
}

export const preconditionParameters = 8;

/**
 * A SQL expression over these parameters, from `first` on: whether the precondition holds. See
 * `preconditionValues`.
 */
export const preconditionHolds = (first: number) => `
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
    join sendbatch.person_uid d on d.owner = w.owner and d.uid = w.uid where d.denied)
  and not exists (
    select from unnest($${first + 6}::bigint[], $${first + 7}::text[]) as w(channel_key, uid)
    where exists (select from sendbatch.channel_uid u where u.channel_key = w.channel_key and u.uid = w.uid and u.denied)
      or (exists (select from sendbatch.channel_uid a where a.channel_key = w.channel_key and a.allowed)
        and not exists (select from sendbatch.channel_uid u where u.channel_key = w.channel_key and u.uid = w.uid and u.allowed)))`;

/**
 * The parameters of a precondition; undefined when the channel of a member has no row: then it has
 * no members.
 */
export function preconditionValues(
  { openChannels, senders, members, guests, peers }: PermissionPrecondition,
  channelKeys: ReadonlyMap<string, number>,
): (Buffer | null)[] | undefined {
  const channels = new BinaryArray('bigint', openChannels.length * 12);
  for (const { key } of openChannels) {
    const channelKey = channelKeys.get(key);
    // A channel without a row was never created, and is open.
    if (channelKey !== undefined) channels.bigint(channelKey);
  }
  const memberKeys = new BinaryArray('bigint', members.length * 12);
  for (const { channel } of members) {
    const channelKey = channelKeys.get(channel.key);
    if (channelKey === undefined) return undefined;
    memberKeys.bigint(channelKey);
  }
  const listed = guests.flatMap(({ channel, uid }) => {
    const channelKey = channelKeys.get(channel.key);
    // A channel without a row has no lists.
    return channelKey === undefined ? [] : [{ channelKey, uid }];
  });
  const guestKeys = new BinaryArray('bigint', listed.length * 12);
  for (const { channelKey } of listed) guestKeys.bigint(channelKey);
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
    guestKeys.value(),
    texts(listed.map((each) => each.uid)),
  ];
}
