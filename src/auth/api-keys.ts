import { hash, randomBytes, timingSafeEqual } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import { type Caller, type Scope, scopes } from '../messages/caller.ts';
import { orBusy } from '../messages/store-busy.ts';
import type { Db } from '../postgres/schema.ts';
import { findKey, insertKey, type KeyPosition, listKeys, pageKeys, revokeKey, type StoredKey } from './api-keys.sql.ts';

/** Properties of a new key. */
export interface KeyWish {
  readonly name: string;
  readonly scopes: readonly Scope[];
  readonly senders?: readonly string[];
  readonly ratePerSecond?: number;
  /** Milliseconds since 1970. */
  readonly expiresAt?: number;
}

/**
 * API keys. A key is `sb_<id>_<secret>`; the id appears in lists and logs, the secret is shown
 * once.
 */
export interface Keys {
  /** `by`: the id of the caller. Unset: the command line. */
  create(wish: KeyWish, by?: string): Promise<{ keyId: string; key: string }>;
  list(): Promise<StoredKey[]>;
  /** At most `limit` keys after a position, the latest first. */
  page(after: KeyPosition | undefined, limit: number): Promise<StoredKey[]>;
  /** The stored key, without the cache. */
  find(keyId: string): Promise<StoredKey | undefined>;
  /** False if there is no such key, or it was revoked before. */
  revoke(keyId: string, by?: string): Promise<boolean>;
  /** The caller of a key; undefined for an unknown, expired or revoked key. */
  identify(key: string): Promise<Caller | undefined>;
}

/**
 * Milliseconds that a key is cached: every instance refuses a revoked key after at most this long.
 * Without the cache each call costs a statement.
 */
export const keyMemoryMs = 1000;
/** Recorded as the creator of keys that the command line creates. */
const commandLine = 'cli';
const rememberedKeys = 10_000;

const shape = /^sb_([a-z0-9]{16})_([A-Za-z0-9_-]{43})$/;
const idLetters = 'abcdefghijklmnopqrstuvwxyz012345';
/** Compared with when there is no such key, so that the comparison takes as long. */
const noHash = Buffer.alloc(32);

export function createKeys(db: Db, now: () => number = Date.now): Keys {
  const known = new LRUCache<string, { found: Promise<StoredKey | undefined> }>({
    max: rememberedKeys,
    ttl: keyMemoryMs,
    ttlResolution: 0,
  });
  const look = (keyId: string): Promise<StoredKey | undefined> => {
    const remembered = known.get(keyId);
    if (remembered !== undefined) return remembered.found;
    const found = findKey(db, keyId);
    known.set(keyId, { found });
    // A failed lookup is not cached.
    found.catch(() => known.delete(keyId));
    return found;
  };
  return {
    async create(wish, by = commandLine) {
      const keyId = Array.from(randomBytes(16), (byte) => idLetters[byte % idLetters.length]).join('');
      const secret = randomBytes(32).toString('base64url');
      await insertKey(db, {
        keyId,
        secretHash: hash('sha256', secret, 'buffer'),
        name: wish.name,
        scopes: wish.scopes,
        senders: wish.senders ?? null,
        ratePerSecond: wish.ratePerSecond ?? null,
        createdAt: now(),
        expiresAt: wish.expiresAt ?? null,
        revokedAt: null,
        createdBy: by,
        revokedBy: null,
      });
      return { keyId, key: `sb_${keyId}_${secret}` };
    },
    list: () => listKeys(db),
    page: (after, limit) => pageKeys(db, after, limit),
    find: (keyId) => findKey(db, keyId),
    async revoke(keyId, by = commandLine) {
      const isRevoked = await revokeKey(db, keyId, { now: now(), by });
      // This instance refuses it at once.
      known.delete(keyId);
      return isRevoked;
    },
    async identify(key) {
      const [, keyId, secret] = shape.exec(key) ?? [];
      if (keyId === undefined || secret === undefined) return undefined;
      const stored = await orBusy(() => look(keyId));
      const isRight = timingSafeEqual(hash('sha256', secret, 'buffer'), stored?.secretHash ?? noHash);
      if (!isRight || stored === undefined || stored.revokedAt !== null) return undefined;
      if (stored.expiresAt !== null && stored.expiresAt <= now()) return undefined;
      return {
        id: `key ${stored.keyId}`,
        name: stored.name,
        kind: 'service',
        scopes: new Set(scopes.filter((scope) => stored.scopes.includes(scope))),
        ...(stored.senders === null ? {} : { senders: new Set(stored.senders) }),
        ...(stored.ratePerSecond === null ? {} : { ratePerSecond: stored.ratePerSecond }),
      };
    },
  };
}
