// Identifies callers: API keys, JWTs of users (HS256 secrets or the issuer's JWKS), client
// certificates.
//
// Entry point: `createIdentify`, called with headers and certificate before a body is read. It
// returns the caller with its scopes and senders, or throws CREDENTIAL_MISSING or
// CREDENTIAL_INVALID without saying which part was wrong. API keys: api-keys.ts; the issuer's keys:
// issuer-keys.ts. Scopes per RPC: rpc/interceptors/authenticate.ts.

import type { TLSSocket } from 'node:tls';
import { errors, type JWTPayload, type JWTVerifyGetKey, type JWTVerifyOptions, jwtVerify } from 'jose';
import { type Caller, type Scope, userCaller } from '../messages/caller.ts';
import { ServiceError } from '../messages/service-error.ts';
import { createIssuerKeys, IssuerKeysUnavailable } from './issuer-keys.ts';

/** How tokens are verified. */
export interface TokenRules {
  /**
   * The secrets of HS256 that are accepted now (a rotation replaces `current`), or where the
   * issuer's public keys are.
   */
  readonly key: { readonly secrets: { readonly current: readonly Uint8Array[] } } | { readonly jwksUrl: string };
  readonly algorithms: readonly string[];
  readonly issuer: string;
  readonly audience: string;
  /**
   * The scopes that a token can grant. A token that names none grants `send` and `read` of them.
   */
  readonly scopes: readonly Scope[];
}

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
export interface IdentitySources {
  /** The caller of an API key; undefined for an invalid one, whatever the cause. */
  identifyKey(key: string): Promise<Caller | undefined>;
  /** Whether the uid bypasses channel rules: such uids are for services. */
  isSystemUid(uid: string): Promise<boolean>;
  /** Database time in ms: a token expires for all instances at once. */
  readonly now?: () => number;
  /** The issuer's keys could not be fetched. */
  onIssuerFault?(error: unknown): void;
}

/** Tolerated difference between the issuer's clock and this one. */
const clockToleranceSeconds = 30;
const uidBytes = 256;

export function createIdentify({ tokens, certificateScopes }: IdentityRules, sources: IdentitySources): Identify {
  const identifyToken = tokens === undefined ? undefined : createTokenReader(tokens, sources);
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
 * Verifies a token of a user; undefined if it is invalid. Throws STORE_BUSY if the issuer's keys
 * cannot be fetched.
 */
function createTokenReader(
  { key, algorithms, issuer, audience, scopes: grantable }: TokenRules,
  { isSystemUid, onIssuerFault, now = Date.now }: IdentitySources,
): (token: string) => Promise<Caller | undefined> {
  const verify: VerifyToken =
    'secrets' in key
      ? (token, options) => verifyWithSecrets(token, key.secrets.current, options)
      : verifyWithIssuer(createIssuerKeys(new URL(key.jwksUrl), { onFault: onIssuerFault }));
  const options = {
    algorithms: [...algorithms],
    issuer,
    audience,
    requiredClaims: ['sub', 'exp'],
    clockTolerance: clockToleranceSeconds,
  };
  return async (token) => {
    const claims = await verify(token, { ...options, currentDate: new Date(now()) });
    const { sub, exp } = claims ?? {};
    const granted = claims && scopesOf(claims);
    if (!isUid(sub) || exp === undefined || granted === undefined) return undefined;
    if (await isSystemUid(sub))
      throw new ServiceError({
        reason: 'CREDENTIAL_INVALID',
        message: `the token's subject ${JSON.stringify(sub)} is a system uid, which channel rules do not restrict; only services may act as it, with an API key or a client certificate`,
        metadata: {},
      });
    // A token within the tolerance has expired already: a stream that it opens ends with the
    // tolerance.
    const isOver = exp * 1000 <= now();
    return {
      ...userCaller(
        sub,
        grantable.filter((scope) => granted.includes(scope)),
      ),
      expiresAt: (isOver ? exp + clockToleranceSeconds : exp) * 1000,
    };
  };
}

/** Returns the claims of a valid token; undefined for any other. */
type VerifyToken = (token: string, options: JWTVerifyOptions) => Promise<JWTPayload | undefined>;

/**
 * During a rotation two secrets are accepted; only a signature that does not match moves on to the
 * next one.
 */
async function verifyWithSecrets(
  token: string,
  secrets: readonly Uint8Array[],
  options: JWTVerifyOptions,
): Promise<JWTPayload | undefined> {
  for (const secret of secrets) {
    try {
      return (await jwtVerify(token, secret, options)).payload;
    } catch (error) {
      if (!(error instanceof errors.JWSSignatureVerificationFailed)) return undefined;
    }
  }
  return undefined;
}

function verifyWithIssuer(find: JWTVerifyGetKey): VerifyToken {
  return async (token, options) => {
    try {
      return (await jwtVerify(token, find, options)).payload;
    } catch (error) {
      if (error instanceof IssuerKeysUnavailable) throw issuerAway(error);
      if (!(error instanceof errors.JWKSMultipleMatchingKeys)) return undefined;
      // A token without a key id while the issuer publishes several keys, as during a rotation.
      for await (const key of error) {
        const verified = await jwtVerify(token, key, options).catch(() => undefined);
        if (verified !== undefined) return verified.payload;
      }
      return undefined;
    }
  };
}

function isUid(sub: unknown): sub is string {
  return (
    typeof sub === 'string' &&
    sub !== '' &&
    sub.isWellFormed() &&
    Buffer.byteLength(sub) <= uidBytes &&
    !/[@#&\0]/.test(sub)
  );
}

/**
 * The scopes that a token names: `scope` (RFC 8693, a string with spaces, also seen as an array) or
 * `scp` (Entra ID, Okta). Undefined when one of them has another type: what cannot be read grants
 * nothing.
 */
function scopesOf({ scope, scp }: JWTPayload): readonly string[] | undefined {
  const named = [scope, scp].filter((each) => each !== undefined).map(scopeWords);
  if (named.length === 0) return ['send', 'read'];
  return named.every((each) => each !== undefined) ? named.flat() : undefined;
}

function scopeWords(claim: unknown): readonly string[] | undefined {
  if (typeof claim === 'string') return claim.split(' ');
  return Array.isArray(claim) && claim.every((each) => typeof each === 'string') ? claim : undefined;
}

/** The issuer's keys cannot be fetched: the validity of the token is unknown. */
function issuerAway(cause: unknown): ServiceError {
  return new ServiceError(
    {
      reason: 'STORE_BUSY',
      message: "the token issuer's keys cannot be fetched; retry",
      metadata: {},
      retryAfterMs: 1000,
    },
    { cause },
  );
}

/** The common name of a client certificate that the TLS layer has verified. */
export function certificateOf(socket: unknown): string | undefined {
  const { authorized, getPeerCertificate } = socket as Partial<TLSSocket>;
  if (authorized !== true || getPeerCertificate === undefined) return undefined;
  const { subject } = (socket as TLSSocket).getPeerCertificate();
  const name = subject?.CN;
  return Array.isArray(name) ? name[0] : name;
}
