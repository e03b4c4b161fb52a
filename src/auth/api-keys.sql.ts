import { sql } from 'kysely';
import type { Db } from '../postgres/schema.ts';

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
}

interface KeyRow {
  readonly key_id: string;
  readonly secret_hash: Buffer;
  readonly name: string;
  readonly scopes: string[];
  readonly senders: string[] | null;
  readonly rate_per_second: number | null;
  readonly created_at: number;
  readonly expires_at: number | null;
  readonly revoked_at: number | null;
}

export async function insertKey(db: Db, key: StoredKey): Promise<void> {
  await sql`
    insert into sendbatch.api_key (key_id, secret_hash, name, scopes, senders, rate_per_second, created_at, expires_at)
    values (${key.keyId}, ${key.secretHash}, ${key.name}, ${[...key.scopes]}, ${key.senders && [...key.senders]},
      ${key.ratePerSecond}, ${key.createdAt}, ${key.expiresAt})`.execute(db);
}

export async function findKey(db: Db, keyId: string): Promise<StoredKey | undefined> {
  const { rows } = await sql<KeyRow>`select * from sendbatch.api_key where key_id = ${keyId}`.execute(db);
  const [row] = rows;
  return row && toKey(row);
}

/** Lists all keys, the oldest first. */
export async function listKeys(db: Db): Promise<StoredKey[]> {
  const { rows } = await sql<KeyRow>`select * from sendbatch.api_key order by created_at, key_id`.execute(db);
  return rows.map(toKey);
}

/** Revokes a key; false if there is none or it was revoked before. */
export async function revokeKey(db: Db, keyId: string, now: number): Promise<boolean> {
  const { numAffectedRows } = await sql`
    update sendbatch.api_key set revoked_at = ${now} where key_id = ${keyId} and revoked_at is null`.execute(db);
  return numAffectedRows === 1n;
}

function toKey(row: KeyRow): StoredKey {
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
  };
}
