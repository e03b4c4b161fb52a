import type { Refusal } from './service-error.ts';

/** What a credential is good for: sending, reading, changing what others may do, and reading the service's metrics. */
export const scopes = ['send', 'read', 'admin', 'metrics'] as const;
export type Scope = (typeof scopes)[number];

/** Who calls. */
export interface Caller {
  /** What its rate is counted by: the key's id, the user, the certificate's name. Never a secret. */
  readonly id: string;
  /** For people: the key's name, the token's subject, the certificate's. */
  readonly name: string;
  /** A service may send as others; a user only as itself. */
  readonly kind: 'service' | 'user';
  readonly scopes: ReadonlySet<Scope>;
  /** Whom it may send as; unset: anybody. */
  readonly senders?: ReadonlySet<string>;
  /** Messages that it may send in a second, over a minute; unset: as the settings say. */
  readonly ratePerSecond?: number;
  /** When its token ends, in milliseconds since 1970: its streams end then. Unset: they are looked up again instead. */
  readonly expiresAt?: number;
}

/** The caller where no credential is asked for: a trusted service. */
export const trustedCaller: Caller = { id: 'anybody', name: 'anybody', kind: 'service', scopes: new Set(scopes) };

/** A user, who may send as itself and nobody else. */
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
        ? `a user sends as itself: from_uid must be ${JSON.stringify(caller.name)}`
        : `this key may not send as ${JSON.stringify(fromUid)}; give it that sender, or use another key`,
    metadata: { from_uid: fromUid },
  };
}
