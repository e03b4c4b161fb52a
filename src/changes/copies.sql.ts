import { sql } from 'kysely';
import { type ChangeKind, changeKindOf } from '../messages/message.ts';
import type { Db } from '../postgres/schema.ts';

/** A content that a message had, and the change that replaced it. */
export interface MessageCopy {
  /** Of the content; 0: as it was sent. */
  readonly revision: number;
  readonly replacedBy: ChangeKind;
  /** Milliseconds since 1970. */
  readonly replacedAt: number;
  readonly payload: Buffer;
  readonly subscribers: readonly string[];
}

/** Reads the copies of a message with a revision above `afterRevision`, in order. */
export async function readCopies(
  db: Db,
  channelKey: number,
  messageSeq: number,
  { afterRevision, limit }: { readonly afterRevision: number; readonly limit: number },
): Promise<MessageCopy[]> {
  const { rows } = await sql<{
    revision: number;
    kind: number;
    copied_at: number;
    payload: Buffer;
    subscribers: string[] | null;
  }>`
    select revision, kind, copied_at, payload, subscribers from sendbatch.message_copy
    where channel_key = ${channelKey} and message_seq = ${messageSeq} and revision > ${afterRevision}
    order by revision limit ${limit}`.execute(db);
  return rows.map((row) => ({
    revision: row.revision,
    replacedBy: changeKindOf(row.kind),
    replacedAt: row.copied_at,
    payload: row.payload,
    subscribers: row.subscribers ?? [],
  }));
}

/** Removes at most `limit` copies that were made before a time; returns how many. */
export async function sweepCopies(db: Db, before: number, limit: number): Promise<number> {
  const { numAffectedRows } = await sql`
    delete from sendbatch.message_copy c using (
      select channel_key, message_seq, revision from sendbatch.message_copy
      where copied_at < ${before} order by copied_at limit ${limit} for update skip locked
    ) old
    where c.channel_key = old.channel_key and c.message_seq = old.message_seq and c.revision = old.revision`.execute(
    db,
  );
  return Number(numAffectedRows ?? 0n);
}
