import type { Machine } from './machine.ts';
import { spread } from './measure.ts';
import { channelCount } from './workload.ts';

/**
 * Rows that a layout holds before it is measured: its indexes are then several times the buffers.
 */
const heldRows = 5_000_000;
/** Keys that are looked up at once. */
const wantedKeys = 1000;
const chunkRows = 1000;
/** Chunks per round. */
const chunks = 50;

interface Layout {
  readonly name: string;
  /**
   * The columns that identify a message, from the generated columns `i` (number), `c` (channel key)
   * and `s` (sequence).
   */
  readonly keys: string;
  readonly constraints: readonly string[];
}

const uid = `'user-' || lpad((i % 1000)::text, 6, '0') || '-0123456789abcdef0123'`;
const key = `'0000001000-' || lpad(i::text, 12, '0') || '-0123456789ab'`;
const digest = `md5(i::text)::uuid as dedupe_key`;

const layouts: readonly Layout[] = [
  {
    name: 'channel key, digest (the product)',
    keys: `c as channel_key, s as message_seq, 4096 + i as message_id, ${digest}`,
    constraints: ['primary key (channel_key, message_seq)', 'unique (channel_key, dedupe_key)'],
  },
  {
    name: 'the same, and an index on message_id',
    keys: `c as channel_key, s as message_seq, 4096 + i as message_id, ${digest}`,
    constraints: ['primary key (channel_key, message_seq)', 'unique (channel_key, dedupe_key)', 'unique (message_id)'],
  },
  {
    name: 'the digest alone is the once-only key',
    keys: `c as channel_key, s as message_seq, 4096 + i as message_id, ${digest}`,
    constraints: ['primary key (channel_key, message_seq)', 'unique (dedupe_key)'],
  },
  {
    name: 'texts: channel id and type, sender and client_msg_no',
    keys: `'channel-' || c as channel_id, 2::smallint as channel_type, s as message_seq, 4096 + i as message_id`,
    constraints: [
      'primary key (channel_id, channel_type, message_seq)',
      'unique (channel_id, channel_type, from_uid, client_msg_no)',
    ],
  },
];

const rest = `0::bigint as accepted_at, 2::smallint as flags, decode(md5(i::text) || md5(i::text), 'hex') as content_hash,
  ${uid} collate "C" as from_uid, ${key} collate "C" as client_msg_no, decode(repeat('78', 100), 'hex') as payload`;
/**
 * Message i goes to a channel by a multiplicative hash, with its position there as the sequence.
 */
const made = (from: number, to: number) =>
  `select i, (i * 7919::bigint) % ${channelCount} + 1 as c, i / ${channelCount} + 1 as s from generate_series(${from}::bigint, ${to}::bigint) as i`;

/**
 * Measures key layouts: PostgreSQL's CPU per row, for chunks of 1000 prepared rows inserted into
 * tables of millions of rows; each round runs every layout.
 */
export async function keyLayouts(machine: Machine, pairs: number): Promise<string> {
  await machine.query('create schema bench');
  const last = heldRows + pairs * chunks * chunkRows - 1;
  for (const [index, { keys, constraints }] of layouts.entries()) {
    const columns = `${keys}, ${rest}`;
    await machine.query(
      `create table bench.held_${index} as select ${columns} from (${made(0, heldRows - 1)}) as made`,
    );
    for (const constraint of constraints) await machine.query(`alter table bench.held_${index} add ${constraint}`);
    await machine.query(
      `create table bench.next_${index} as select i / ${chunkRows} as chunk, ${columns} from (${made(heldRows, last)}) as made`,
    );
    await machine.query(`create index on bench.next_${index} (chunk)`);
    await machine.query(`vacuum analyze bench.held_${index}`);
    await machine.query(`vacuum analyze bench.next_${index}`);
  }
  await machine.query('checkpoint');
  const cost = layouts.map((): number[] => []);
  const wal = layouts.map((): number[] => []);
  for (let round = 0; round < pairs; round++) {
    for (let offset = 0; offset < layouts.length; offset++) {
      const index = (offset + round) % layouts.length;
      const before = { cpu: machine.cpu(), wal: await walBytes(machine) };
      for (let chunk = 0; chunk < chunks; chunk++)
        await machine.query(`
          insert into bench.held_${index} select ${await columnsOf(machine, index)} from bench.next_${index}
          where chunk = ${heldRows / chunkRows + round * chunks + chunk}`);
      const rows = chunks * chunkRows;
      cost[index]?.push(((machine.cpu() - before.cpu) / rows) * 1e6);
      wal[index]?.push(((await walBytes(machine)) - before.wal) / rows);
    }
  }
  const lines: string[] = [];
  for (const [index, { name }] of layouts.entries()) {
    const [size] = await machine.query<{ bytes: string }>(`select pg_indexes_size('bench.held_${index}') as bytes`);
    const indexes = Number(size?.bytes) / (last + 1);
    lines.push(
      `| ${name} | ${spread(cost[index] ?? [], 1)} | ${spread(wal[index] ?? [], 0)} | ${indexes.toFixed(0)} |`,
    );
  }
  await machine.query('drop schema bench cascade');
  return `| keys | µs of PostgreSQL per row | bytes of WAL per row | bytes of indexes per row |\n|---|---|---|---|\n${lines.join('\n')}`;
}

async function walBytes(machine: Machine): Promise<number> {
  const [row] = await machine.query<{ bytes: string }>(`select pg_current_wal_lsn() - '0/0'::pg_lsn as bytes`);
  return Number(row?.bytes);
}

const known = new Map<number, string>();
async function columnsOf(machine: Machine, index: number): Promise<string> {
  const found =
    known.get(index) ??
    (
      await machine.query<{ name: string }>(
        `select attname as name from pg_attribute where attrelid = 'bench.held_${index}'::regclass and attnum > 0 order by attnum`,
      )
    )
      .map((column) => column.name)
      .join(', ');
  known.set(index, found);
  return found;
}

/** Measures lookups of 1000 once-only keys, half of them stored, in a table of millions of rows. */
export async function lookUps(machine: Machine, pairs: number): Promise<string> {
  await machine.fill(heldRows);
  const stored = wantedKeys / 2;
  // Keys of rows that are far apart, and as many of the same channels that are not stored.
  const wanted = `
    select array_agg(c) as c, array_agg(d) as d from (
      select m.channel_key as c, unnest(array[m.dedupe_key, md5(m.dedupe_key::text)::uuid]) as d
      from generate_series(1, ${stored}) as n
      join sendbatch.message m on m.channel_key = n * ${Math.floor(channelCount / stored)} and m.message_seq = n % ${heldRows / channelCount} + 1
    ) as keys`;
  const forms: [string, string][] = [
    [
      'cross join lateral (… limit 1) (the product)',
      `select m.message_id from unnest(array(select unnest(c) from wanted), array(select unnest(d) from wanted)) as w(c, d)
       cross join lateral (select message_id from sendbatch.message m where m.channel_key = w.c and m.dedupe_key = w.d limit 1) m`,
    ],
    [
      'join',
      `select m.message_id from unnest(array(select unnest(c) from wanted), array(select unnest(d) from wanted)) as w(c, d)
       join sendbatch.message m on m.channel_key = w.c and m.dedupe_key = w.d`,
    ],
    [
      'dedupe_key = any (…), channel_key = any (…)',
      `select m.message_id from sendbatch.message m where m.channel_key = any(array(select unnest(c) from wanted)) and m.dedupe_key = any(array(select unnest(d) from wanted))`,
    ],
  ];
  await machine.query(`create temporary table wanted as ${wanted}`);
  const lines: string[] = [];
  for (const [name, text] of forms) {
    const times: number[] = [];
    for (let round = 0; round <= pairs; round++) {
      const start = performance.now();
      const found = (await machine.query(text)).length;
      // The first round reads the pages from disk.
      if (round > 0) times.push(performance.now() - start);
      if (found !== stored) throw new Error(`${found} of ${stored} keys were found`);
    }
    lines.push(`| ${name} | ${spread(times, 1)} |`);
  }
  await machine.query('drop table wanted');
  await machine.reset();
  return `| form | ms |\n|---|---|\n${lines.join('\n')}`;
}
