import { sql } from 'kysely';
import { limits } from '../limits.ts';
import type { ChannelStore } from '../messages/channel-keys.sql.ts';
import { alive } from '../messages/message-select.sql.ts';
import { overShards } from '../postgres/over-shards.ts';
import type { Db, Tx } from '../postgres/schema.ts';
import type { Rule } from './rules.ts';

/** A flagged message with its content. */
export interface FlaggedMessage {
  readonly messageId: number;
  readonly messageSeq: number;
  readonly channelId: string;
  readonly channelType: number;
  readonly fromUid: string;
  readonly payload: Buffer;
  readonly ruleIds: readonly number[];
  /** Milliseconds since 1970. */
  readonly flaggedAt: number;
}

interface RuleRow {
  readonly rule_id: number;
  readonly action: Rule['action'];
  readonly keywords: string[];
  readonly patterns: string[];
  readonly channel_types: number[];
  readonly tag_keys: string[];
  readonly note: string;
}

/** Reads the version of the rules, which increases with every change. */
export async function readRulesVersion(db: Db): Promise<number> {
  const { rows } = await sql<{ version: number }>`select version from sendbatch.moderation_version`.execute(db);
  return rows[0]?.version ?? 0;
}

export async function listRules(db: Db): Promise<Rule[]> {
  const { rows } = await sql<RuleRow>`select * from sendbatch.moderation_rule order by rule_id`.execute(db);
  return rows.map((row) => ({
    ruleId: row.rule_id,
    action: row.action,
    keywords: row.keywords,
    patterns: row.patterns,
    channelTypes: row.channel_types,
    tagKeys: row.tag_keys,
    note: row.note,
  }));
}

export async function insertRule(db: Db, rule: Omit<Rule, 'ruleId'>): Promise<number> {
  const { rows } = await sql<{ rule_id: number }>`
    with changed as (update sendbatch.moderation_version set version = version + 1)
    insert into sendbatch.moderation_rule (action, keywords, patterns, channel_types, tag_keys, note)
    values (${rule.action}, ${rule.keywords}, ${rule.patterns}, ${rule.channelTypes}, ${rule.tagKeys}, ${rule.note})
    returning rule_id`.execute(db);
  const [row] = rows;
  if (row === undefined) throw new Error('the rule was not inserted');
  return row.rule_id;
}

/** Whether there was such a rule. */
export async function updateRule(db: Db, rule: Rule): Promise<boolean> {
  const { rows } = await sql`
    with changed as (update sendbatch.moderation_version set version = version + 1)
    update sendbatch.moderation_rule set action = ${rule.action}, keywords = ${rule.keywords}, patterns = ${rule.patterns},
      channel_types = ${rule.channelTypes}, tag_keys = ${rule.tagKeys}, note = ${rule.note}
    where rule_id = ${rule.ruleId} returning rule_id`.execute(db);
  return rows.length === 1;
}

/** Whether there was such a rule. */
export async function deleteRule(db: Db, ruleId: number): Promise<boolean> {
  const { rows } = await sql`
    with changed as (update sendbatch.moderation_version set version = version + 1)
    delete from sendbatch.moderation_rule where rule_id = ${ruleId} returning rule_id`.execute(db);
  return rows.length === 1;
}

/** A message to flag, in the transaction that stores it. */
export interface Flag {
  readonly messageId: number;
  readonly channelKey: number;
  readonly messageSeq: number;
  readonly ruleIds: readonly number[];
}

export async function insertFlags(tx: Tx, flags: readonly Flag[], now: number): Promise<void> {
  await sql`
    insert into sendbatch.flagged_message (message_id, channel_key, message_seq, rule_ids, flagged_at)
    select message_id, channel_key, message_seq, string_to_array(rule_ids, ',')::bigint[], ${now}::bigint
    from unnest(${flags.map((flag) => flag.messageId)}::bigint[], ${flags.map((flag) => flag.channelKey)}::bigint[],
      ${flags.map((flag) => flag.messageSeq)}::bigint[], ${flags.map((flag) => flag.ruleIds.join(','))}::text[])
      as flag(message_id, channel_key, message_seq, rule_ids)
    on conflict (message_id) do update set rule_ids = excluded.rule_ids, flagged_at = excluded.flagged_at`.execute(tx);
}

interface FlaggedRow {
  readonly message_id: number;
  readonly message_seq: number;
  readonly channel_key: number;
  readonly from_uid: string | null;
  readonly payload: Buffer | null;
  readonly rule_ids: number[];
  readonly flagged_at: number;
}

/** Lists flagged messages after an id, in the order of ids. An expired one has no content. */
export async function listFlagged(
  { db, shards, channelKeys }: ChannelStore,
  after: number,
  limit: number,
  now: number,
): Promise<FlaggedMessage[]> {
  const ofShards = await overShards(db, shards.all, async (shard) => {
    const { rows } = await sql<FlaggedRow>`
      select page.message_id, page.message_seq, page.channel_key, page.from_uid, page.payload,
        page.rule_ids::float8[] as rule_ids, page.flagged_at
      from (
        select f.*, m.from_uid, m.payload, coalesce(sum(octet_length(m.payload)) over (
          order by f.message_id rows between unbounded preceding and 1 preceding), 0) as bytes_before
        from (select * from sendbatch.flagged_message where message_id > ${after} order by message_id limit ${limit}) f
        left join sendbatch.message m on m.channel_key = f.channel_key and m.message_seq = f.message_seq
          and ${alive(now)}
      ) page
      where page.bytes_before <= ${limits.pageBytes}
      order by page.message_id`.execute(shard);
    return rows;
  });
  const sorted = ofShards.flat().sort((a, b) => a.message_id - b.message_id);
  // What a shard left out for its size is out of the page here too, and so is all behind it.
  let bytes = 0;
  const end = sorted.findIndex((row) => {
    const isBehind = bytes > limits.pageBytes;
    bytes += row.payload?.length ?? 0;
    return isBehind;
  });
  const rows = sorted.slice(0, Math.min(limit, end === -1 ? limit : end));
  const names = await channelKeys.names(rows.map((row) => row.channel_key));
  return rows.flatMap((row) => {
    const channel = names.get(row.channel_key);
    if (channel === undefined) return [];
    return [
      {
        messageId: row.message_id,
        messageSeq: row.message_seq,
        channelId: channel.id,
        channelType: channel.type,
        fromUid: row.from_uid ?? '',
        payload: row.payload ?? Buffer.alloc(0),
        ruleIds: row.rule_ids,
        flaggedAt: row.flagged_at,
      },
    ];
  });
}

/** Removes flags, from whichever shards have them: an id may be older than its shard. */
export async function removeFlags({ db, shards }: ChannelStore, messageIds: readonly number[]): Promise<void> {
  await overShards(db, shards.all, async (shard) => {
    await sql`delete from sendbatch.flagged_message where message_id = any(${messageIds}::bigint[])`.execute(shard);
  });
}
