// Settings that identify callers and the service: tokens and TLS.
import type { Identity, Reload, Tls } from './config.ts';
import { isScope, splitList } from './formats.ts';
import type { Settings } from './settings.ts';
import type { SecretFile } from './sources.ts';
import { ConfigError, readSettingsFile } from './text.ts';
import { checkTls } from './tls.ts';

export function tlsOf(key: string, cert: string, clientCa: string): { tls: Tls; warnings: string[] } | undefined {
  if (key === '' && cert === '') {
    if (clientCa !== '') throw new ConfigError('TLS_CLIENT_CA requires TLS_KEY and TLS_CERT');
    return undefined;
  }
  if (key === '' || cert === '') throw new ConfigError('TLS_KEY and TLS_CERT must be set together');
  const fileOf = (name: string, path: string) => ({ name: `${name}=${path}`, text: readSecret(name, path) });
  const files = {
    key: fileOf('TLS_KEY', key),
    cert: fileOf('TLS_CERT', cert),
    clientCa: clientCa === '' ? undefined : fileOf('TLS_CLIENT_CA', clientCa),
  };
  const warnings = checkTls(files);
  const { text: ca } = files.clientCa ?? {};
  return {
    tls: { key: files.key.text, cert: files.cert.text, ...(ca === undefined ? {} : { clientCa: ca }) },
    warnings,
  };
}

function readSecret(name: string, path: string): string {
  return readSettingsFile(path, `${name}=${path}`);
}

/** RFC 7518, section 3.2: a key of HS256 is at least as long as its hash. */
const secretBytes = 32;

export function tokensOf(at: Settings): Identity['tokens'] {
  const { jwtSecret, jwtSecretPrevious, jwtJwksUrl, jwtIssuer: issuer, jwtAudience: audience } = at;
  if (jwtSecret === '' && jwtSecretPrevious !== '') throw new ConfigError('JWT_SECRET_PREVIOUS requires JWT_SECRET');
  if (jwtSecret === '' && jwtJwksUrl === '') return undefined;
  if (jwtSecret !== '' && jwtJwksUrl !== '')
    throw new ConfigError('JWT_SECRET and JWT_JWKS_URL must not be set together');
  if (issuer === '' || audience === '')
    throw new ConfigError(
      'tokens require JWT_ISSUER and JWT_AUDIENCE: a token issued for another service must not be accepted',
    );
  const scopes = splitList(at.jwtScopes).filter(isScope);
  if (jwtSecret !== '') {
    const secrets = { current: tokenSecretsOf(jwtSecret, jwtSecretPrevious) };
    return { key: { secrets }, algorithms: ['HS256'], issuer, audience, scopes };
  }
  const algorithms = splitList(at.jwtAlgorithms);
  if (algorithms.length === 0 || algorithms.some((name) => !/^(RS|PS|ES)(256|384|512)$|^EdDSA$/.test(name)))
    throw new ConfigError('JWT_ALGORITHMS must name public-key signatures such as RS256, ES256, EdDSA');
  return { key: { jwksUrl: jwtJwksUrl }, algorithms, issuer, audience, scopes };
}

/** The accepted secrets: the current one, and during a rotation the previous one. */
function tokenSecretsOf(secret: string, previous: string): Uint8Array[] {
  return [
    tokenSecretOf('JWT_SECRET', secret),
    ...(previous === '' ? [] : [tokenSecretOf('JWT_SECRET_PREVIOUS', previous)]),
  ];
}

function tokenSecretOf(name: string, text: string): Uint8Array {
  const secret = Buffer.from(text);
  if (secret.length < secretBytes)
    throw new ConfigError(`${name} must have at least ${secretBytes} bytes, not ${secret.length}`);
  return secret;
}

/** Empty unless a token secret is in a file: the environment of a running process cannot change. */
export function tokenSecretsReload(
  at: Settings,
  files: Readonly<Record<string, SecretFile>>,
): Pick<Reload, 'tokenSecrets'> {
  const { JWT_SECRET: secret, JWT_SECRET_PREVIOUS: previous } = files;
  if (at.jwtSecret === '' || (secret === undefined && previous === undefined)) return {};
  return {
    tokenSecrets: {
      files: [secret, previous].flatMap((file) => (file === undefined ? [] : [file.path])),
      read: () => tokenSecretsOf(secret?.read() ?? at.jwtSecret, previous?.read() ?? at.jwtSecretPrevious),
    },
  };
}
