import type { TLSSocket } from 'node:tls';
import { createContextKey } from '@connectrpc/connect';
import { createRemoteJWKSet, errors, type JWTVerifyGetKey, jwtVerify } from 'jose';
import { type Caller, type Scope, scopes, trustedCaller, userCaller } from '../domain/caller.ts';
import { Failure } from '../domain/failure.ts';

/** Where the caller stands in a call's context. */
export const callerKey = createContextKey<Caller>(trustedCaller, { description: 'caller' });
/** The subject of the client's certificate, when the TLS layer has verified it. */
export const certificateKey = createContextKey<string | undefined>(undefined, { description: 'client certificate' });

/** How tokens are verified. */
export interface TokenRules {
  /** The secret of HS256, or where the issuer's public keys are. */
  readonly key: { readonly secret: Uint8Array } | { readonly jwksUrl: string };
  readonly algorithms: readonly string[];
  readonly issuer: string;
  readonly audience: string;
}

/** How callers are told apart. */
export interface IdentityRules {
  readonly tokens: TokenRules | undefined;
  /** Scopes of a caller whose certificate was verified; unset: certificates are not asked for. */
  readonly certificateScopes: readonly Scope[] | undefined;
}

/** Who stands behind a call's headers and certificate; throws CREDENTIAL_MISSING or CREDENTIAL_INVALID. */
export type Identify = (header: Headers, certificate: string | undefined) => Promise<Caller>;

/** Seconds that clocks may differ by. */
const clockToleranceSeconds = 30;
/** Keys of the issuer are read again after ten minutes, and at once for a key id that is not known, at most twice a minute. */
const jwks = { cacheMaxAge: 600_000, cooldownDuration: 30_000, timeoutDuration: 5000 };

export function createIdentify(
  { tokens, certificateScopes }: IdentityRules,
  identifyKey: (key: string) => Promise<Caller | undefined>,
): Identify {
  const identifyToken = tokens === undefined ? undefined : createTokenReader(tokens);
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
      throw new Failure({
        reason: 'CREDENTIAL_MISSING',
        message:
          'a credential is needed: an API key or a token as "Authorization: Bearer …", or an API key as "token: …"',
        metadata: {},
      });
    }
    const caller = credential.startsWith('sb_') ? await identifyKey(credential) : await identifyToken?.(credential);
    if (caller !== undefined) return caller;
    // One text for all: which part was wrong is for the log of who made it.
    throw new Failure({
      reason: 'CREDENTIAL_INVALID',
      message: 'the credential is not valid: it is unknown, expired, revoked, or of another issuer',
      metadata: {},
    });
  };
}

function credentialOf(header: Headers): string | undefined {
  const authorization = header.get('authorization');
  if (authorization !== null) return /^bearer +(\S+) *$/i.exec(authorization)?.[1] ?? authorization;
  return header.get('token') ?? undefined;
}

function createTokenReader({
  key,
  algorithms,
  issuer,
  audience,
}: TokenRules): (token: string) => Promise<Caller | undefined> {
  const find: JWTVerifyGetKey =
    'secret' in key ? async () => key.secret : createRemoteJWKSet(new URL(key.jwksUrl), jwks);
  return async (token) => {
    try {
      const { payload } = await jwtVerify(token, find, {
        algorithms: [...algorithms],
        issuer,
        audience,
        requiredClaims: ['sub', 'exp'],
        clockTolerance: clockToleranceSeconds,
      });
      const { sub = '', scope } = payload;
      if (sub === '' || Buffer.byteLength(sub) > 256 || /[@#&\0]/.test(sub)) return undefined;
      const named = typeof scope === 'string' ? scope.split(' ') : ['send', 'read'];
      return userCaller(
        sub,
        scopes.filter((each) => named.includes(each)),
      );
    } catch (error) {
      if (error instanceof errors.JWKSTimeout || error instanceof TypeError) throw issuerAway(error);
      if (error instanceof errors.JOSEError && error.code !== 'ERR_JOSE_GENERIC') return undefined;
      throw issuerAway(error);
    }
  };
}

/** The issuer's keys cannot be read: nobody can say whether the token is good. */
function issuerAway(cause: unknown): Failure {
  return new Failure(
    {
      reason: 'STORE_BUSY',
      message: 'the keys of the token’s issuer cannot be read now; try again',
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
