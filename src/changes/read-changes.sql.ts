import { type ChangeKind, changeKindOf } from '../messages/message.ts';
import { aliveAt, type MessageRow, messageColumnNames, toStored } from '../messages/message-select.sql.ts';
import type { StoredMessage } from '../messages/stored-row.ts';
import type { Db } from '../postgres/schema.ts';
import { Statement } from '../postgres/sql.ts';

/** A change of a channel. */
export interface Change {
  readonly changeNo: number;
  readonly kind: ChangeKind;
  /** The message as it is now; undefined: it is no longer kept, or has expired. */
  readonly message: StoredMessage | undefined;
}

const changesStatement = new Statement<ChangeRow>({
  name: 'changes after',
  byKey: true,
  text: `
    select c.change_no, c.kind, ${messageColumnNames}
    from (
      select change_no, kind, message_seq from sendbatch.message_change
      where channel_key = $1 and change_no > $2 order by change_no limit $3
    ) c
    left join lateral (
      select * from sendbatch.message m
      where m.channel_key = $1 and m.message_seq = c.message_seq
        and ${aliveAt('$4')}
      limit 1
    ) m on true
    order by c.change_no`,
});

type ChangeRow = { readonly change_no: number; readonly kind: number } & (MessageRow | { readonly message_id: null });

/** Reads the next changes of a channel, without regard to a viewer. */
export async function readChangesAfter(
  db: Db,
  channelKey: number,
  { afterChange, limit }: { readonly afterChange: number; readonly limit: number },
  now: number,
): Promise<Change[]> {
  const rows = await changesStatement.run(db, [channelKey, afterChange, limit, now]);
  return rows.map((row) => ({
    changeNo: row.change_no,
    kind: changeKindOf(row.kind),
    message: row.message_id === null ? undefined : toStored(row),
  }));
}

const firstStatement = new Statement<{ first: number | null }>({
  name: 'first change',
  byKey: true,
  text: 'select min(change_no) as first from sendbatch.message_change where channel_key = $1',
});

/** The first kept change of a channel; undefined: none is kept. */
export async function firstKeptChange(db: Db, channelKey: number): Promise<number | undefined> {
  const [row] = await firstStatement.run(db, [channelKey]);
  return row?.first ?? undefined;
}
