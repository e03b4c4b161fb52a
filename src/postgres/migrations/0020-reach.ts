import { type Kysely, sql } from 'kysely';

/** How far each channel was delivered to each user. */
export async function up(db: Kysely<unknown>): Promise<void> {
  // Written only with DELIVERY_CURSORS=on. Free space on each page keeps its updates HOT.
  await sql`
    create table sendbatch.delivery_cursor (
      uid text collate "C" not null,
      channel_key bigint not null,
      delivered_seq bigint not null,
      primary key (uid, channel_key)
    ) with (fillfactor = 70)`.execute(db);
}
