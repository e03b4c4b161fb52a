import pg from 'pg';
import { type Prepared, prepare } from '../../src/domain/message.ts';
import { limits } from '../../src/limits.ts';
import type { Side, SideJob } from '../side.ts';
import { batchesOf, type Workload } from '../workload.ts';

interface Row {
  readonly channelKey: number;
  readonly seq: number;
  readonly id: number;
  readonly dedupeKey: Buffer;
  readonly contentHash: Buffer;
  readonly message: Prepared;
}

const insert = `
  insert into sendbatch.message (channel_key, message_seq, message_id, accepted_at, dedupe_key, flags, content_hash,
    from_uid, client_msg_no, payload, expire, stream_no, tag_key, subscribers)
  select channel_key, message_seq, message_id, $14::bigint, dedupe_key, flags, content_hash,
    from_uid, client_msg_no, payload, expire, stream_no, tag_key, subscribers::jsonb
  from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::uuid[], $5::smallint[], $6::bytea[],
    $7::text[], $8::text[], $9::bytea[], $10::bigint[], $11::text[], $12::text[], $13::text[])
    as w(channel_key, message_seq, message_id, dedupe_key, flags, content_hash,
      from_uid, client_msg_no, payload, expire, stream_no, tag_key, subscribers)`;

/**
 * The rows that a send of the work would store, numbered beforehand, with nothing decided, looked up or locked: what PostgreSQL takes at best from
 * multi-row INSERTs. They go in binary, as arrays through unnest, prepared once: the fastest form of INSERT that was measured.
 */
export async function openRaw({
  url,
  workload,
  inFlight,
  statementRows = workload.batchMessages,
}: SideJob): Promise<Side> {
  const groups = rowsOf(workload, statementRows);
  const clients = await Promise.all(
    Array.from({ length: inFlight }, async () => {
      const client = new pg.Client({ connectionString: url });
      await client.connect();
      return client;
    }),
  );
  for (const client of clients) await client.query('select 1');
  const free = [...clients];
  return {
    sends: groups.length,
    async send(index) {
      const rows = groups[index] ?? [];
      const client = free.pop();
      if (client === undefined) throw new Error('more under way than there are connections');
      await client.query({ name: 'insert', text: insert, values: valuesOf(rows) });
      free.push(client);
      return { stored: rows.length, duplicates: 0 };
    },
    async close() {
      for (const client of clients) await client.end();
    },
  };
}

function rowsOf(workload: Workload, size: number): Row[][] {
  const heads = new Map<number, number>();
  const rows = batchesOf(workload)
    .flat()
    .map((work, index): Row => {
      const channelKey = work.rank + 1;
      const seq = (heads.get(channelKey) ?? 0) + 1;
      heads.set(channelKey, seq);
      const message = prepare(work, work.clientMsgNo);
      return {
        channelKey,
        seq,
        id: limits.idsPerBlock + index,
        dedupeKey: Buffer.from(message.dedupeKey, 'latin1'),
        contentHash: Buffer.from(message.contentHash, 'latin1'),
        message,
      };
    });
  return Array.from({ length: Math.ceil(rows.length / size) }, (_, index) =>
    rows.slice(index * size, (index + 1) * size),
  );
}

function valuesOf(rows: readonly Row[]): unknown[] {
  const none = arrayOf(
    oid.text,
    rows.map(() => undefined),
  );
  return [
    arrayOf(
      oid.int8,
      rows.map((row) => int8(row.channelKey)),
    ),
    arrayOf(
      oid.int8,
      rows.map((row) => int8(row.seq)),
    ),
    arrayOf(
      oid.int8,
      rows.map((row) => int8(row.id)),
    ),
    arrayOf(
      oid.uuid,
      rows.map((row) => row.dedupeKey),
    ),
    arrayOf(
      oid.int2,
      rows.map((row) => int2(row.message.flags)),
    ),
    arrayOf(
      oid.bytea,
      rows.map((row) => row.contentHash),
    ),
    arrayOf(
      oid.text,
      rows.map((row) => Buffer.from(row.message.fromUid)),
    ),
    arrayOf(
      oid.text,
      rows.map((row) => Buffer.from(row.message.clientMsgNo)),
    ),
    arrayOf(
      oid.bytea,
      rows.map((row) => row.message.payload),
    ),
    arrayOf(
      oid.int8,
      rows.map(() => undefined),
    ),
    none,
    none,
    none,
    Date.now(),
  ];
}

const oid = { bytea: 17, int8: 20, int2: 21, text: 25, uuid: 2950 };

/** A one-dimensional array in PostgreSQL's binary form. */
function arrayOf(type: number, elements: readonly (Uint8Array | undefined)[]): Buffer {
  let length = 20;
  for (const element of elements) length += 4 + (element?.length ?? 0);
  const bytes = Buffer.allocUnsafe(length);
  let end = 0;
  for (const word of [1, 1, type, elements.length, 1]) end = bytes.writeInt32BE(word, end);
  for (const element of elements) {
    end = bytes.writeInt32BE(element?.length ?? -1, end);
    if (element === undefined) continue;
    bytes.set(element, end);
    end += element.length;
  }
  return bytes;
}

function int8(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(8);
  bytes.writeUInt32BE(Math.floor(value / 2 ** 32), 0);
  bytes.writeUInt32BE(value >>> 0, 4);
  return bytes;
}

function int2(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(2);
  bytes.writeInt16BE(value, 0);
  return bytes;
}
