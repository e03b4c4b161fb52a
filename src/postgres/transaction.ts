import { CompiledQuery } from 'kysely';
import { transactionOn, withConnection } from './connection.ts';
import type { Db, Tx } from './schema.ts';
import { all } from './sql.ts';

/**
 * Runs one READ COMMITTED transaction in two round trips: BEGIN is sent with the statements of
 * `read`, COMMIT with those of `write`, without waiting for answers. If one of them fails,
 * PostgreSQL turns COMMIT into ROLLBACK.
 *
 * READ COMMITTED, because a statement that waited for a lock must not freeze the snapshot of the
 * next one. `read` may lock and read and must not write: after a failed BEGIN its statements commit
 * by themselves. `write` is called when BEGIN and all of `read` succeeded; without statements in
 * `sent` the transaction is rolled back.
 */
export async function inTransaction<Read, T>(
  db: Db,
  read: (tx: Tx) => Promise<Read>,
  write: (tx: Tx, read: Read) => { readonly sent: readonly Promise<unknown>[]; readonly result: T },
): Promise<T> {
  return await withConnection(db, async (connection) => {
    const tx = transactionOn(connection);
    const send = (text: string) => connection.executeQuery(CompiledQuery.raw(text));
    let open = true;
    try {
      const [, found] = await all([send('begin isolation level read committed'), read(tx)]);
      const { sent, result } = write(tx, found);
      open = false;
      if (sent.length === 0) await send('rollback');
      else await all([...sent, send('commit')]);
      return result;
    } catch (error) {
      // A rollback fails only with its connection, and then the transaction is gone too.
      if (open) await send('rollback').catch(() => {});
      throw error;
    }
  });
}

/** Sets how long the statements of this transaction wait for a lock. */
export async function setLockTimeout(tx: Tx, milliseconds: number): Promise<void> {
  await tx.executeQuery(CompiledQuery.raw(`set local lock_timeout = ${Math.trunc(milliseconds)}`));
}
