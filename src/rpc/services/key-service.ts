import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { ServiceImpl } from '@connectrpc/connect';
import { type KeySchema, type KeyService, KeyState } from '../../../gen/sendbatch/v1/key_service_pb.ts';
import type { StoredKey } from '../../auth/api-keys.sql.ts';
import type { KeyManagement } from '../../auth/manage-keys.ts';
import { limits } from '../../limits.ts';
import { scopes as knownScopes } from '../../messages/caller.ts';
import { pageOf } from '../../messages/page.ts';
import { parsePageToken } from '../page-token.ts';
import { callerOf } from '../request-context.ts';
import { timestampMs } from '../timestamps.ts';

/** What KeyService needs. */
export interface KeyServiceParts {
  readonly keyManagement: KeyManagement;
  /** Database time in ms. */
  readonly now: () => number;
}

/** Implements sendbatch.v1.KeyService: each RPC converts between the proto and a use case. */
export function createKeyService({ keyManagement, now }: KeyServiceParts): ServiceImpl<typeof KeyService> {
  const toMessage = (key: StoredKey) => toKey(key, now());
  return {
    async createKey({ name, scopes, senders, ratePerSecond, expiresAt }, context) {
      const { stored, secret } = await keyManagement.create(
        {
          name,
          scopes: knownScopes.filter((scope) => scopes.includes(scope)),
          ...(senders.length === 0 ? {} : { senders }),
          ...(ratePerSecond === 0 ? {} : { ratePerSecond }),
          ...(expiresAt === undefined ? {} : { expiresAt: timestampMs('expires_at', expiresAt) }),
        },
        callerOf(context),
      );
      return { key: toMessage(stored), secret };
    },
    async listKeys({ pageSize, pageToken }) {
      const limit = pageSize || limits.pageMessagesDefault;
      const { page, last } = pageOf(await keyManagement.page(positionOf(pageToken), limit + 1), limit);
      return {
        keys: page.map(toMessage),
        nextPageToken: last === undefined ? '' : `${last.createdAt}-${last.keyId}`,
      };
    },
    async revokeKey({ keyId }, context) {
      const { stored, cancelledBatches } = await keyManagement.revoke(keyId, callerOf(context));
      return { key: toMessage(stored), cancelledBatches };
    },
  };
}

/** The position in a page token, `<created_at>-<key_id>`. */
function positionOf(pageToken: string) {
  const [time = '', keyId = ''] = pageToken.split('-');
  const [createdAt] = parsePageToken(time);
  return createdAt === undefined ? undefined : { createdAt, keyId };
}

function toKey(key: StoredKey, now: number): MessageInitShape<typeof KeySchema> {
  const { expiresAt, revokedAt } = key;
  const isExpired = expiresAt !== null && expiresAt <= now;
  return {
    keyId: key.keyId,
    name: key.name,
    state: revokedAt !== null ? KeyState.REVOKED : isExpired ? KeyState.EXPIRED : KeyState.ACTIVE,
    scopes: [...key.scopes],
    senders: [...(key.senders ?? [])],
    ratePerSecond: key.ratePerSecond ?? 0,
    createdAt: timestampFromMs(key.createdAt),
    createdBy: key.createdBy ?? '',
    ...(expiresAt === null ? {} : { expiresAt: timestampFromMs(expiresAt) }),
    ...(revokedAt === null ? {} : { revokedAt: timestampFromMs(revokedAt) }),
    revokedBy: key.revokedBy ?? '',
  };
}
