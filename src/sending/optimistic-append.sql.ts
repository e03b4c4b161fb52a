/**
 * The statements of the optimistic append: each stores a whole group in one step that is its own
 * transaction. It advances, and so locks, the heads of the group's channels, numbers the messages
 * and inserts them, or stores nothing.
 *
 * - `appendNew`: in a database with one shard; creates channels.
 * - `appendToShard`: in one of several shards, whose channels exist.
 *
 * When a group takes this way: optimistic-append.ts.
 */
import { limits } from '../limits.ts';
import { type Channel, messageSequence } from '../messages/channel.ts';
import { memberValues, nameValues, withBases } from '../messages/channel-keys.sql.ts';
import type { PermissionPrecondition } from '../messages/permission.ts';
import {
  type AskedOf,
  askPrecondition,
  preconditionValues,
  shardPrecondition,
  wholePrecondition,
} from '../messages/precondition.sql.ts';
import { BinaryArray, bigintArray } from '../postgres/binary-array.ts';
import { isWithoutSequence } from '../postgres/pg-errors.ts';
import type { Db } from '../postgres/schema.ts';
import { onShard } from '../postgres/shards.ts';
import { Statement } from '../postgres/sql.ts';
import type { GroupLayout, RowSlot } from './group-layout.ts';
import { ownColumns, ownValues } from './messages.sql.ts';

interface AppendedRow {
  readonly block: number;
  /** Of channels that existed, joined with commas; NULL when the precondition failed. */
  readonly last_seqs: string | null;
  readonly new_keys: string;
}

/** A message as stored by `appendStatements.toShard`. */
interface NumberedRow {
  readonly channel_key: number;
  readonly message_seq: number;
  readonly message_id: number;
}

/**
 * The steps that create channels. All names are locked before the first head, on every path:
 * otherwise two groups could wait for each other. A name that exists is a unique violation
 * (`isCreatedChannel`).
 */
const creation = {
  parameters: 6,
  steps: (first: number) => `
    drawn as materialized (
      select array_agg(nextval('sendbatch.channel_channel_key_seq')) as keys
      from generate_series(1, cardinality($${first}::text[]))
    ), made as (
      insert into sendbatch.channel (channel_key, channel_id, channel_type, sequence) overriding system value
      select w.channel_key, w.channel_id, w.channel_type, w.sequence
      from drawn, unnest(drawn.keys, $${first}::text[], $${first + 1}::smallint[], $${first + 2}::smallint[])
        as w(channel_key, channel_id, channel_type, sequence)
      order by w.channel_id collate "C", w.channel_type, w.sequence
      returning channel_key
    ), made_members as (
      insert into sendbatch.channel_uid (channel_key, uid, created_at, updated_at, member, joined_seq, joined_command_seq)
      select drawn.keys[w.ordinal], w.uid, $3::bigint, $3::bigint, true, 0, 0
      from drawn, unnest($${first + 3}::integer[], $${first + 4}::text[]) as w(ordinal, uid)
    ), made_heads as (
      insert into sendbatch.channel_head (channel_key, last_seq, last_at)
      select w.channel_key, w.count, case when w.count > 0 then $3::bigint else 0 end
      from drawn, unnest(drawn.keys, $${first + 5}::bigint[]) as w(channel_key, count)
    ),`,
};

/** What a statement does besides appending to channels that exist, and in what database. */
interface AppendVariant {
  readonly creates: boolean;
  readonly announces: boolean;
  /** Whether there are several shards: then channels are created before. */
  readonly isShard?: boolean;
}

/**
 * Appends a group in one statement:
 *  1. `made` creates channels, in sorted order (statements with `creates` only);
 *  2. `advanced` updates the heads of the other channels, and so locks them, in the lock order of
 *     `lockHeads`;
 *  3. `heads` draws the block of ids after all locks, so that ids increase with the sequence within
 *     a channel; with several shards from a row of the shard (`drawn`), which is locked until the
 *     commit, always after the heads;
 *  4. `stored` numbers the rows back from the heads. A missing head or a failed precondition makes
 *     the sequences NULL, which the table refuses;
 *  5. `announced` writes one outbox row per channel for webhooks, except for channels of commands.
 *
 * Separate statements, so that a group pays only for what it needs.
 */
const appendStatements = {
  plain: appendStatement('append messages', { creates: false, announces: false }),
  announcing: appendStatement('append messages and announce them', { creates: false, announces: true }),
  creating: appendStatement('create channels and append messages', { creates: true, announces: false }),
  both: appendStatement('create channels, append messages and announce them', { creates: true, announces: true }),
  toShard: appendStatement<NumberedRow>('append messages to a shard', {
    creates: false,
    announces: false,
    isShard: true,
  }),
  announcingShard: appendStatement('append messages to a shard and announce them', {
    creates: false,
    announces: true,
    isShard: true,
  }),
};

function statementFor({ creates, announces }: Omit<AppendVariant, 'isShard'>): Statement<AppendedRow> {
  if (creates) return announces ? appendStatements.both : appendStatements.creating;
  return announces ? appendStatements.announcing : appendStatements.plain;
}

/**
 * On a shard without webhooks the INSERT is the statement itself, which returns its rows
 * (`NumberedRow`): Citus sends a statement to the shard's node if its CTEs only update. It broke up
 * one that inserts in a CTE, copied the results of the steps to all nodes, and committed in two
 * phases on all of them: 17 to 19 ms per statement instead of 9 to 12.
 */
function appendStatement<Row = AppendedRow>(
  name: string,
  { creates, announces, isShard }: AppendVariant,
): Statement<Row> {
  const { names, parameters, values } = ownColumns;
  const precondition = isShard ? shardPrecondition : wholePrecondition;
  const firstOfPrecondition = 7 + ownColumns.count;
  const firstOfCreation = firstOfPrecondition + precondition.parameters;
  const shardCount = `$${firstOfCreation}::bigint`;
  const newCounts = `$${firstOfCreation + creation.parameters - 1}::bigint[]`;
  const isAnnounced = `$${firstOfCreation + (creates ? creation.parameters : isShard ? 1 : 0)}::smallint[]`;
  const newKeys = '(select keys from drawn)';
  const returnsRows = isShard && !announces;
  const insertion = `
      insert into sendbatch.message (channel_key, message_seq, message_id, accepted_at, ${names})
      select heads.keys[w.head_index], heads.last_seqs[w.head_index] - w.seq_offset, heads.block * ${limits.idsPerBlock} + w.id_offset, heads.last_ats[w.head_index], ${values}
      from heads, unnest($4::integer[], $5::integer[], $6::integer[], ${parameters(7)}) as w(head_index, seq_offset, id_offset, ${names})
    `;
  return new Statement<Row>({
    name,
    byKey: true,
    text: `
    with ${creates ? creation.steps(firstOfCreation) : ''}
    advanced as (
      update sendbatch.channel_head h set last_seq = h.last_seq + w.count, last_at = greatest(h.last_at, $3::bigint)
      from (select channel_key, count from unnest($1::bigint[], $2::bigint[]) as w(channel_key, count) order by channel_key) w
      where h.channel_key = w.channel_key ${creates ? 'and (select count(*) from made) > 0' : ''}
      returning h.channel_key, h.last_seq, h.last_at
    ), ${
      isShard
        ? `drawn as (
      update sendbatch.id_block set last = last + ${shardCount} where (select count(*) from advanced) >= 0 returning last
    ),`
        : ''
    } heads as materialized (
      select ${isShard ? '(select last from drawn)' : `nextval('sendbatch.message_block')`} as block,
        $1::bigint[] ${creates ? `|| ${newKeys}` : ''} as keys,
        case when count(*) = cardinality($1::bigint[]) and ${precondition.holds(firstOfPrecondition)}
          then coalesce(array_agg(last_seq order by channel_key), '{}') ${creates ? `|| ${newCounts}` : ''} end as last_seqs,
        coalesce(array_agg(last_at order by channel_key), '{}')
          ${creates ? `|| array_fill($3::bigint, array[cardinality(${newCounts})])` : ''} as last_ats
      from advanced
    )${returnsRows ? `${insertion} returning channel_key, message_seq, message_id` : `, stored as (${insertion})`}${
      announces
        ? `, announced as (
      insert into sendbatch.webhook_outbox (channel_key, first_seq, last_seq)
      select w.channel_key, w.last_seq - w.count + 1, w.last_seq
      from heads, unnest(heads.keys, heads.last_seqs, $2::bigint[] ${creates ? `|| ${newCounts}` : ''}, ${isAnnounced}) as w(channel_key, last_seq, count, is_announced)
      where w.is_announced = 1 and w.last_seq is not null
    )`
        : ''
    }${
      returnsRows
        ? ''
        : `
    select block, array_to_string(last_seqs[:cardinality($1::bigint[])], ',') as last_seqs,
      ${creates ? `array_to_string(${newKeys}, ',')` : `''`} as new_keys
    from heads`
    }`,
  });
}

/** The numbers of a group that was stored. */
export interface AppendedNumbers {
  /** The last sequence of each channel of the layout. */
  readonly lastSeqs: readonly number[];
  readonly block: number;
  /** The keys of channels that were created. */
  readonly created: ReadonlyMap<Channel, number>;
}

/** A group to append as laid out. */
export interface NewAppend {
  readonly layout: GroupLayout;
  readonly precondition: PermissionPrecondition;
  readonly channelKeys: ReadonlyMap<string, number>;
  readonly acceptedAt: number;
  /** Whether webhooks exist, which receive what is stored. */
  readonly announce: boolean;
}

/**
 * Advances the heads of a group's channels and stores its messages, in one statement and one
 * transaction. Creates the channels that have no key in `channelKeys`.
 *
 * Returns undefined when the precondition fails. Rejects with a unique violation when a once-only
 * key exists, or a channel to be created. In all these cases nothing is stored. One round trip
 * instead of six statements: a group of 100 takes 1.8 times as long as the bare INSERT (p50, idle).
 */
export async function appendNew(db: Db, append: NewAppend): Promise<AppendedNumbers | undefined> {
  const { layout, precondition, channelKeys, announce } = append;
  const preconditions = preconditionValues(precondition, channelKeys);
  if (preconditions === undefined) return undefined;
  const heads = layOutHeads(layout.channels, channelKeys);
  const { created, missing } = heads;
  const newCounts = missing.map((index) => layout.channels[index]?.count ?? 0);
  const statement = statementFor({ creates: created.length > 0, announces: announce });
  const more = [...preconditions, ...(created.length === 0 ? [] : creationValues(created, newCounts))];
  return appendedNumbers(await runAppend(db, statement, append, heads, more), append, heads);
}

/**
 * As `appendNew` on one of several shards, to which all channels belong and where they exist. Asks
 * for the precondition's other part first. `sent`: called when the statement that stores was sent.
 */
export async function appendToShard(
  on: AskedOf & { readonly sent: () => void },
  append: NewAppend,
): Promise<AppendedNumbers | undefined> {
  const { db, shards, shard, sent } = on;
  const { layout, precondition, channelKeys, announce } = append;
  const preconditions = await askPrecondition(on, precondition, channelKeys);
  if (preconditions === undefined) return undefined;
  const heads = layOutHeads(layout.channels, channelKeys);
  // A group without a stored message returns no row of one.
  const announces = announce || layout.rows.length === 0;
  const run = <Row>(statement: Statement<Row>) => {
    const more = [...preconditions, shards.count];
    const answer = runAppend(onShard(db, shard), statement, { ...append, announce: announces }, heads, more);
    sent();
    return answer;
  };
  return announces
    ? appendedNumbers(await run(appendStatements.announcingShard), append, heads)
    : numbersOfRows(await run(appendStatements.toShard), heads);
}

/**
 * Runs an append statement; `more`: its parameters after the columns of messages. No rows: a
 * precondition failed.
 */
async function runAppend<Row>(
  db: Db,
  statement: Statement<Row>,
  { layout: { channels, rows }, acceptedAt, announce }: NewAppend,
  heads: HeadLayout,
  more: readonly unknown[],
): Promise<Row[]> {
  const countOf = (index: number) => channels[index]?.count ?? 0;
  const sorted = inHeadOrder(rows, channels, [...heads.known, ...heads.missing]);
  const headIndexes = new BinaryArray('integer', rows.length * 8);
  const seqOffsets = new BinaryArray('integer', rows.length * 8);
  const idOffsets = new BinaryArray('integer', rows.length * 8);
  for (const { channel, channelOffset, idOffset } of sorted) {
    headIndexes.integer((heads.indexOf[channel] ?? 0) + 1);
    seqOffsets.integer(countOf(channel) - channelOffset);
    idOffsets.integer(idOffset);
  }
  return await statement
    .run(db, [
      bigintArray(heads.keys),
      bigintArray(heads.known.map(countOf)),
      acceptedAt,
      headIndexes.value(),
      seqOffsets.value(),
      idOffsets.value(),
      ...ownValues(sorted.map((each) => each.message)),
      ...more,
      ...(announce ? [announcedValue(channels, heads)] : []),
    ])
    .catch((error: unknown) => {
      if (isWithoutSequence(error)) return [];
      throw error;
    });
}

function appendedNumbers(
  [row]: readonly AppendedRow[],
  { layout: { channels } }: NewAppend,
  { indexOf, created }: HeadLayout,
): AppendedNumbers | undefined {
  if (row === undefined || row.last_seqs === null) return undefined;
  const lastSeqs = numbersOf(row.last_seqs);
  const newKeys = numbersOf(row.new_keys);
  return {
    lastSeqs: indexOf.map((headIndex, index) => lastSeqs[headIndex] ?? channels[index]?.count ?? 0),
    block: row.block,
    created: new Map(created.map((channel, index) => [channel, newKeys[index] ?? 0])),
  };
}

function numbersOfRows(rows: readonly NumberedRow[], { indexOf, keys }: HeadLayout): AppendedNumbers | undefined {
  const [first] = rows;
  if (first === undefined) return undefined;
  const lastSeqs = new Map<number, number>();
  for (const { channel_key, message_seq } of rows)
    lastSeqs.set(channel_key, Math.max(message_seq, lastSeqs.get(channel_key) ?? 0));
  return {
    lastSeqs: indexOf.map((headIndex) => lastSeqs.get(keys[headIndex] ?? 0) ?? 0),
    block: Math.floor(first.message_id / limits.idsPerBlock),
    created: new Map(),
  };
}

/**
 * The order in which a statement gets the channels of a group: existing ones by key, then others.
 */
interface HeadLayout {
  /** Keys of the channels that exist, ascending, and their indexes in the group's layout. */
  readonly keys: readonly number[];
  readonly known: readonly number[];
  /** Indexes of the channels that do not exist. */
  readonly missing: readonly number[];
  /** The missing channels, and behind them bases to which only commands are sent. */
  readonly created: readonly Channel[];
  /** Positions in this order, by index in the layout. */
  readonly indexOf: readonly number[];
}

function layOutHeads(channels: GroupLayout['channels'], channelKeys: ReadonlyMap<string, number>): HeadLayout {
  const keyOf = channels.map(({ channel }) => channelKeys.get(channel.key));
  const missing: number[] = [];
  const known: number[] = [];
  for (let index = 0; index < keyOf.length; index++) (keyOf[index] === undefined ? missing : known).push(index);
  known.sort((a, b) => (keyOf[a] ?? 0) - (keyOf[b] ?? 0));
  const indexOf: number[] = new Array(channels.length);
  let headIndex = 0;
  for (const index of known) indexOf[index] = headIndex++;
  for (const index of missing) indexOf[index] = headIndex++;
  const wanted = withBases(missing.flatMap((index) => channels[index]?.channel ?? []));
  return {
    keys: known.map((index) => keyOf[index] ?? 0),
    known,
    missing,
    created: wanted.filter(({ key }) => !channelKeys.has(key)),
    indexOf,
  };
}

/** The parameters of `creation`. `counts`: of messages; bases at the end have none. */
function creationValues(created: readonly Channel[], counts: readonly number[]): (Buffer | null)[] {
  const padded = created.map((_, index) => counts[index] ?? 0);
  return [...nameValues(created), ...memberValues(created), bigintArray(padded)];
}

function announcedValue(channels: GroupLayout['channels'], { known, missing, created }: HeadLayout): Buffer | null {
  const isAnnounced = [...known, ...missing].map((index) => channels[index]?.channel.sequence === messageSequence);
  const array = new BinaryArray('smallint', (isAnnounced.length + created.length) * 6);
  for (const each of isAnnounced) array.smallint(each ? 1 : 0);
  for (let index = missing.length; index < created.length; index++) array.smallint(0);
  return array.value();
}

/** Numbers joined with commas: splitting is four times as fast as pg's parser of arrays. */
function numbersOf(text: string): number[] {
  return text === '' ? [] : text.split(',').map(Number);
}

/**
 * The rows by ascending channel key, those of a channel in their order: both unique indexes begin
 * with the channel.
 */
function inHeadOrder(
  rows: readonly RowSlot[],
  channels: GroupLayout['channels'],
  order: readonly number[],
): readonly RowSlot[] {
  const startOf: number[] = new Array(channels.length);
  let start = -1;
  for (const index of order) {
    startOf[index] = start;
    start += channels[index]?.count ?? 0;
  }
  const sorted: RowSlot[] = new Array(rows.length);
  for (const row of rows) sorted[(startOf[row.channel] ?? 0) + row.channelOffset] = row;
  return sorted;
}
