// Verifies JWTs of users: HS256 secrets, or the public keys of an issuer (issuer-keys.ts).
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

/** What the verification of tokens needs of the rest of the service. */
export interface TokenSources {
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

/**
 * Verifies a token of a user; undefined if it is invalid. Throws STORE_BUSY if the issuer's keys
 * cannot be fetched.
 */
export function createTokenReader(
  { key, algorithms, issuer, audience, scopes: grantable }: TokenRules,
  { isSystemUid, onIssuerFault, now = Date.now }: TokenSources,
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
