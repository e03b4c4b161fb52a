import type { Refusal } from './service-error.ts';

/** What a credential permits: sending, reading, administration, reading the metrics. */
export const scopes = ['send', 'read', 'admin', 'metrics'] as const;
export type Scope = (typeof scopes)[number];

/** The caller of a request. */
export interface Caller {
  /** Counts its rate: the key's id, the user, or the certificate's name. Never a secret. */
  readonly id: string;
  /** For display: the key's name, the subject of the token or certificate. */
  readonly name: string;
  /** A service may send as others; a user only as itself. */
  readonly kind: 'service' | 'user';
  readonly scopes: ReadonlySet<Scope>;
  /** The uids it may send as; unset: any. */
  readonly senders?: ReadonlySet<string>;
  /** Messages per second that it may send, averaged over a minute; unset: the setting's. */
  readonly ratePerSecond?: number;
  /**
   * When its token expires, in milliseconds since 1970: its streams end then. Unset: streams check
   * the credential again.
   */
  readonly expiresAt?: number;
}

/** The caller when AUTH is off: a trusted service. */
export const trustedCaller: Caller = { id: 'anybody', name: 'anybody', kind: 'service', scopes: new Set(scopes) };

/** A user, which may send as itself only. */
export function userCaller(uid: string, granted: Iterable<Scope>): Caller {
  return { id: `user ${uid}`, name: uid, kind: 'user', scopes: new Set(granted), senders: new Set([uid]) };
}

/** Why a caller may not send as this uid; undefined when it may. */
export function senderDenial(caller: Caller, fromUid: string): Refusal | undefined {
  if (caller.senders === undefined || caller.senders.has(fromUid)) return undefined;
  return {
    reason: 'SENDER_NOT_YOURS',
    message:
      caller.kind === 'user'
        ? `a user can only send as itself; set from_uid to ${JSON.stringify(caller.name)}`
        : `this API key may not send as ${JSON.stringify(fromUid)}; allow it that sender, or use another key`,
    metadata: { from_uid: fromUid },
  };
}
