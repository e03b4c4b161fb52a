// Identifies callers: API keys, JWTs of users (HS256 secrets or the issuer's JWKS), client
// certificates.
//
// Entry point: `createIdentify`, called with headers and certificate before a body is read. It
// returns the caller with its scopes and senders, or throws CREDENTIAL_MISSING or
// CREDENTIAL_INVALID without saying which part was wrong. API keys: api-keys.ts; JWTs: tokens.ts;
// the issuer's keys: issuer-keys.ts. Scopes per RPC: rpc/interceptors/authenticate.ts.

import type { TLSSocket } from 'node:tls';
import type { Caller, Scope } from '../messages/caller.ts';
import { ServiceError } from '../messages/service-error.ts';
import type { TokenRules, TokenSources } from './tokens.ts';

/** How credentials are read. */
export interface IdentityRules {
  readonly tokens: TokenRules | undefined;
  /** Scopes of a caller whose certificate was verified; unset: certificates are not asked for. */
  readonly certificateScopes: readonly Scope[] | undefined;
}

/**
 * Identifies the caller by headers and certificate; throws CREDENTIAL_MISSING or
 * CREDENTIAL_INVALID.
 */
export type Identify = (header: Headers, certificate: string | undefined) => Promise<Caller>;

/** What identification needs of the rest of the service. */
export interface IdentitySources extends TokenSources {
  /** The caller of an API key; undefined for an invalid one, whatever the cause. */
  identifyKey(key: string): Promise<Caller | undefined>;
}

export async function createIdentify(
  { tokens, certificateScopes }: IdentityRules,
  sources: IdentitySources,
): Promise<Identify> {
  // jose is loaded only where tokens are accepted: 46 modules, 25 ms of CPU.
  const identifyToken = tokens && (await import('./tokens.ts')).createTokenReader(tokens, sources);
  return async (header, certificate) => {
    const credential = credentialOf(header);
    if (credential === undefined) {
      if (certificate !== undefined && certificateScopes !== undefined)
        return {
          id: `certificate ${certificate}`,
          name: certificate,
          kind: 'service',
          scopes: new Set(certificateScopes),
        };
      throw new ServiceError({
        reason: 'CREDENTIAL_MISSING',
        message:
          'a credential is required: an API key or a JWT as "Authorization: Bearer …", or an API key as "token: …"',
        metadata: {},
      });
    }
    const caller = credential.startsWith('sb_')
      ? await sources.identifyKey(credential)
      : await identifyToken?.(credential);
    if (caller !== undefined) return caller;
    // One text for all causes: the caller must not learn which part was wrong.
    throw new ServiceError({
      reason: 'CREDENTIAL_INVALID',
      message: 'the credential is not valid: it is unknown, expired, revoked, or from another issuer',
      metadata: {},
    });
  };
}

function credentialOf(header: Headers): string | undefined {
  const authorization = header.get('authorization');
  if (authorization !== null) return /^bearer +(\S+) *$/i.exec(authorization)?.[1] ?? authorization;
  return header.get('token') ?? undefined;
}

/**
 * The common name of a client certificate that the TLS layer has verified. The socket of a caller
 * that has left may be undefined.
 */
export function certificateOf(socket: unknown): string | undefined {
  const { authorized, getPeerCertificate } = (socket ?? {}) as Partial<TLSSocket>;
  if (authorized !== true || getPeerCertificate === undefined) return undefined;
  const { subject } = (socket as TLSSocket).getPeerCertificate();
  const name = subject?.CN;
  return Array.isArray(name) ? name[0] : name;
}
