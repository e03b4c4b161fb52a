import { sql } from 'kysely';
import type { Db } from '../postgres/schema.ts';

/** How far a channel was delivered to a user. */
export interface DeliveryCursor {
  readonly uid: string;
  readonly channelKey: number;
  readonly messageSeq: number;
}

/**
 * Advances delivery cursors, never back. `cursors`: each user and channel once, in the order of
 * `channelKey` and `uid`, so that instances cannot deadlock one another.
 */
export async function advanceDelivered(db: Db, cursors: readonly DeliveryCursor[]): Promise<void> {
  await sql`
    insert into sendbatch.delivery_cursor as d (uid, channel_key, delivered_seq)
    select w.uid, w.channel_key, w.message_seq
    from unnest(${cursors.map((each) => each.uid)}::text[], ${cursors.map((each) => each.channelKey)}::bigint[],
      ${cursors.map((each) => each.messageSeq)}::bigint[]) as w(uid, channel_key, message_seq)
    on conflict (uid, channel_key) do update set delivered_seq = excluded.delivered_seq
    where d.delivered_seq < excluded.delivered_seq`.execute(db);
}
