import type { Selectable } from 'kysely';
import type { Db, Tables } from '../postgres/schema.ts';

/** A stored key. Times in milliseconds since 1970. */
export interface StoredKey {
  readonly keyId: string;
  /** SHA-256 of the secret half. */
  readonly secretHash: Buffer;
  readonly name: string;
  readonly scopes: readonly string[];
  /** The uids it may send as; null: any. */
  readonly senders: readonly string[] | null;
  /** Messages per second; null: the setting's. */
  readonly ratePerSecond: number | null;
  readonly createdAt: number;
  /** null: never. */
  readonly expiresAt: number | null;
  readonly revokedAt: number | null;
  /** The ids of the callers; null: unknown, or not revoked. */
  readonly createdBy: string | null;
  readonly revokedBy: string | null;
}

export async function insertKey(db: Db, key: StoredKey): Promise<void> {
  await db
    .insertInto('sendbatch.api_key')
    .values({
      key_id: key.keyId,
      secret_hash: key.secretHash,
      name: key.name,
      scopes: [...key.scopes],
      senders: key.senders && [...key.senders],
      rate_per_second: key.ratePerSecond,
      created_at: key.createdAt,
      expires_at: key.expiresAt,
      created_by: key.createdBy,
    })
    .execute();
}

export async function findKey(db: Db, keyId: string): Promise<StoredKey | undefined> {
  const row = await db.selectFrom('sendbatch.api_key').selectAll().where('key_id', '=', keyId).executeTakeFirst();
  return row && toKey(row);
}

/** Lists all keys, the oldest first. */
export async function listKeys(db: Db): Promise<StoredKey[]> {
  const rows = await db.selectFrom('sendbatch.api_key').selectAll().orderBy('created_at').orderBy('key_id').execute();
  return rows.map(toKey);
}

/** A position in the list of keys, latest first. */
export interface KeyPosition {
  readonly createdAt: number;
  readonly keyId: string;
}

/** Lists at most `limit` keys after a position, the latest first. */
export async function pageKeys(db: Db, after: KeyPosition | undefined, limit: number): Promise<StoredKey[]> {
  let query = db
    .selectFrom('sendbatch.api_key')
    .selectAll()
    .orderBy('created_at', 'desc')
    .orderBy('key_id', 'desc')
    .limit(limit);
  if (after !== undefined)
    query = query.where(({ eb, refTuple, tuple }) =>
      eb(refTuple('created_at', 'key_id'), '<', tuple(after.createdAt, after.keyId)),
    );
  return (await query.execute()).map(toKey);
}

/** Revokes a key; false if there is none or it was revoked before. */
export async function revokeKey(
  db: Db,
  keyId: string,
  { now, by }: { readonly now: number; readonly by: string },
): Promise<boolean> {
  const { numUpdatedRows } = await db
    .updateTable('sendbatch.api_key')
    .set({ revoked_at: now, revoked_by: by })
    .where('key_id', '=', keyId)
    .where('revoked_at', 'is', null)
    .executeTakeFirstOrThrow();
  return numUpdatedRows === 1n;
}

function toKey(row: Selectable<Tables['sendbatch.api_key']>): StoredKey {
  return {
    keyId: row.key_id,
    secretHash: row.secret_hash,
    name: row.name,
    scopes: row.scopes,
    senders: row.senders,
    ratePerSecond: row.rate_per_second,
    createdAt: row.created_at,
    expiresAt: row.expires_at,
    revokedAt: row.revoked_at,
    createdBy: row.created_by,
    revokedBy: row.revoked_by,
  };
}
