import { BinaryArray } from '../postgres/binary-array.ts';
import { byShard } from '../postgres/over-shards.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import type { ShardLayout } from '../postgres/shards.ts';
import { all, Statement } from '../postgres/sql.ts';
import type { Pair, PairFacts, PermissionRules } from './permission.ts';

// `offset 0` in an EXISTS: one probe per row. PostgreSQL may otherwise read the whole list at once,
// of all channels.

/** Columns about the sender `w.sender`, and the table `s` that they are read from. */
const userFacts = `
      coalesce(s.send_ban, false) as is_sender_banned,
      exists (select from sendbatch.system_uid y where y.uid = w.sender offset 0) as is_system_sender`;
const userTable = 'left join lateral (select * from sendbatch.person where uid = w.sender limit 1) s on true';

/** Columns about a channel by its key, and the tables `i` and `u` that they are read from. */
const channelFacts = (key: string) => `
      i.channel_key is not null as is_made,
      coalesce(i.ban or i.send_ban, false) as is_banned,
      coalesce(i.disband, false) as is_disbanded,
      coalesce(u.member, false) as is_member,
      coalesce(u.denied, false) as is_denied,
      coalesce(u.allowed, false) as is_allowed,
      ${key} is not null and exists (select from sendbatch.channel_uid a where a.channel_key = ${key} and a.allowed offset 0) as has_allowlist`;
const channelTables = (key: string) => `
    left join lateral (select * from sendbatch.channel_info where channel_key = ${key} limit 1) i on true
    left join lateral (select * from sendbatch.channel_uid where channel_key = ${key} and uid = w.sender limit 1) u on true`;

/** The pairs, and the keys `c.channel_key` of their channels of messages. */
const pairsTable = `unnest($1::text[], $2::smallint[], $3::text[]) with ordinality as w(channel_id, channel_type, sender, ordinal)
    left join lateral (
      select channel_key from sendbatch.channel
      where channel_id = w.channel_id and channel_type = w.channel_type and sequence = 0 limit 1
    ) c on true`;

const factsStatement = new Statement<FactsRow>({
  name: 'permission facts',
  byKey: true,
  text: `
    select w.ordinal, ${channelFacts('c.channel_key')}, ${userFacts}
    from ${pairsTable} ${channelTables('c.channel_key')}
    ${userTable}`,
});

/** The first half of the facts in a database with several shards: what stands in none of them. */
const userFactsStatement = new Statement<UserFactsRow>({
  name: 'permission facts of users',
  byKey: true,
  text: `
    select w.ordinal, c.channel_key, ${userFacts}
    from ${pairsTable}
    ${userTable}`,
});

/** The second half: what a shard holds about its channels. */
const channelFactsStatement = new Statement<ChannelFactsRow>({
  name: 'permission facts of channels',
  byKey: true,
  text: `
    select w.ordinal, ${channelFacts('w.channel_key')}
    from unnest($1::bigint[], $2::text[]) with ordinality as w(channel_key, sender, ordinal) ${channelTables('w.channel_key')}`,
});

/**
 * Receivers whose own lists deny the sender; the second half only if person allowlists are enforced
 * ($3).
 */
const receiversStatement = new Statement<{ ordinal: number; denied: boolean }>({
  name: 'receivers that keep senders out',
  byKey: true,
  text: `
    select w.ordinal, coalesce(d.denied, false) as denied
    from unnest($1::text[], $2::text[]) with ordinality as w(receiver, sender, ordinal)
    left join lateral (select denied, allowed from sendbatch.person_uid where owner = w.receiver and uid = w.sender limit 1) d on true
    left join lateral (select allow_stranger from sendbatch.person where uid = w.receiver limit 1) r on true
    where (d.denied or ($3::boolean and d.allowed is not true and r.allow_stranger is not true))
      and not exists (select from sendbatch.system_uid y where y.uid = w.receiver)`,
});

interface ChannelFactsRow {
  readonly ordinal: number;
  readonly is_made: boolean;
  readonly is_banned: boolean;
  readonly is_disbanded: boolean;
  readonly is_member: boolean;
  readonly is_denied: boolean;
  readonly is_allowed: boolean;
  readonly has_allowlist: boolean;
}

interface UserFactsRow {
  readonly ordinal: number;
  /** Of the channel of messages; null when it does not exist. */
  readonly channel_key: number | null;
  readonly is_sender_banned: boolean;
  readonly is_system_sender: boolean;
}

type FactsRow = ChannelFactsRow & Omit<UserFactsRow, 'channel_key'>;

/** What a shard without a row for the channel holds about it. */
const unknownChannel: Omit<ChannelFactsRow, 'ordinal'> = {
  is_made: false,
  is_banned: false,
  is_disbanded: false,
  is_member: false,
  is_denied: false,
  is_allowed: false,
  has_allowlist: false,
};

/** Where the facts are read, and by which rules. */
export interface FactsSource {
  readonly db: Db | Tx;
  readonly shards: ShardLayout;
  readonly rules: Pick<PermissionRules, 'enforcePersonAllowlist'>;
}

/**
 * Reads the committed facts of these pairs, by pair key: one statement, and one more where
 * receivers have lists. With several shards one more per shard, in a second round trip.
 */
export async function readPairFacts(
  { db, shards, rules: { enforcePersonAllowlist } }: FactsSource,
  pairs: readonly Pair[],
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
    shards.count === 1
      ? factsStatement.run(db, [ids.value(), types.value(), senders.value()])
      : readFactsOfShards(db, shards, pairs, [ids.value(), types.value(), senders.value()]),
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

async function readFactsOfShards(
  db: Db | Tx,
  shards: ShardLayout,
  pairs: readonly Pair[],
  values: readonly unknown[],
): Promise<FactsRow[]> {
  const users = await userFactsStatement.run(db, values);
  const existing = users.flatMap(({ ordinal, channel_key: channelKey }) =>
    channelKey === null ? [] : [{ ordinal, channelKey, sender: pairs[ordinal - 1]?.sender ?? '' }],
  );
  const found = await byShard(
    db,
    shards,
    { items: existing, channelKeyOf: (each) => each.channelKey },
    async (shard, each) => {
      const keys = new BinaryArray('bigint', each.length * 12);
      const senders = new BinaryArray('text', each.length * 24);
      for (const { channelKey, sender } of each) {
        keys.bigint(channelKey);
        senders.text(sender);
      }
      const rows = await channelFactsStatement.run(shard, [keys.value(), senders.value()]);
      return rows.map((row) => ({ ...row, ordinal: each[row.ordinal - 1]?.ordinal ?? 0 }));
    },
  );
  const channels = new Map(found.flat().map((row) => [row.ordinal, row]));
  return users.map((row) => ({ ...unknownChannel, ...channels.get(row.ordinal), ...row }));
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
