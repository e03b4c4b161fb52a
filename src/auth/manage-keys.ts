import { type Caller, type Scope, senderDenial } from '../messages/caller.ts';
import { invalidField, ServiceError } from '../messages/service-error.ts';
import { orBusy } from '../messages/store-busy.ts';
import type { KeyPosition, StoredKey } from './api-keys.sql.ts';
import type { Keys, KeyWish } from './api-keys.ts';

/** Management of API keys by callers. A key never grants more than its creator has. */
export interface KeyManagement {
  create(wish: KeyWish, caller: Caller): Promise<{ readonly stored: StoredKey; readonly secret: string }>;
  /** At most `limit` keys after a position, the latest first. */
  page(after: KeyPosition | undefined, limit: number): Promise<StoredKey[]>;
  /** Revokes a key and cancels its batches; a revoked key stays as it is. */
  revoke(keyId: string, caller: Caller): Promise<{ readonly stored: StoredKey; readonly cancelledBatches: number }>;
}

export interface KeyManagementOptions {
  readonly keys: Keys;
  /** Cancels the unfinished batches of a key that has ended; returns their ids. */
  readonly stopBatches: (keyId: string) => Promise<readonly string[]>;
  readonly now: () => number;
}

export function createKeyManagement({ keys, stopBatches, now }: KeyManagementOptions): KeyManagement {
  const find = async (keyId: string): Promise<StoredKey> => {
    const stored = await keys.find(keyId);
    if (stored === undefined)
      throw new ServiceError({
        reason: 'KEY_NOT_FOUND',
        message: `key ${JSON.stringify(keyId)} does not exist; ListKeys shows all keys`,
        metadata: { key_id: keyId },
      });
    return stored;
  };
  return {
    create: (wish, caller) =>
      orBusy(async () => {
        const granted = withinCreator(wish, caller, await creatorExpiry(keys, caller));
        if (granted.expiresAt !== undefined && granted.expiresAt <= now())
          throw invalidField('expires_at', 'must be in the future');
        const { keyId, key } = await keys.create(granted, caller.id);
        return { stored: await find(keyId), secret: key };
      }),
    page: (after, limit) => orBusy(() => keys.page(after, limit)),
    revoke: (keyId, caller) =>
      orBusy(async () => {
        await find(keyId);
        await keys.revoke(keyId, caller.id);
        // Also for a key that was revoked before: an earlier call may have failed in between.
        const stopped = await stopBatches(keyId);
        return { stored: await find(keyId), cancelledBatches: stopped.length };
      }),
  };
}

/**
 * When the key of the caller expires. A token's expiry does not count: it bounds a session, not a
 * right.
 */
async function creatorExpiry(keys: Keys, { id }: Caller): Promise<number | undefined> {
  const keyId = /^key (\w+)$/.exec(id)?.[1];
  const stored = keyId === undefined ? undefined : await keys.find(keyId);
  return stored?.expiresAt ?? undefined;
}

/**
 * The key to create, bounded by what its creator has. Throws when the wish asks for more.
 * `endsAt`: when the creator's own key expires.
 */
function withinCreator(wish: KeyWish, creator: Caller, endsAt: number | undefined): KeyWish {
  const missing = wish.scopes.find((scope: Scope) => !creator.scopes.has(scope));
  if (missing !== undefined)
    throw new ServiceError({
      reason: 'SCOPE_MISSING',
      message: `a key cannot have the scope ${missing}, which its creator lacks; this credential has ${[...creator.scopes].join(', ')}`,
      metadata: { scope: missing },
    });
  if (creator.kind === 'user' && wish.scopes.includes('read'))
    throw new ServiceError({
      reason: 'READER_NOT_YOURS',
      message: 'a key with the scope read reads as any user, a user only as itself; create it with a key that may read',
      metadata: { uid: creator.name },
    });
  for (const sender of wish.senders ?? []) {
    const denial = senderDenial(creator, sender);
    if (denial !== undefined) throw new ServiceError(denial);
  }
  const senders = wish.senders ?? (creator.senders && [...creator.senders]);
  const { ratePerSecond = creator.ratePerSecond, expiresAt = endsAt } = wish;
  if (creator.ratePerSecond !== undefined && (ratePerSecond ?? 0) > creator.ratePerSecond)
    throw invalidField('rate_per_second', `must be at most ${creator.ratePerSecond}, the rate of the caller`);
  if (endsAt !== undefined && (expiresAt ?? 0) > endsAt)
    throw invalidField(
      'expires_at',
      `must be at most ${new Date(endsAt).toISOString()}, when the caller's own key expires`,
    );
  return {
    name: wish.name,
    scopes: wish.scopes,
    ...(senders === undefined ? {} : { senders }),
    ...(ratePerSecond === undefined ? {} : { ratePerSecond }),
    ...(expiresAt === undefined ? {} : { expiresAt }),
  };
}
