import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { createSecureContext } from 'node:tls';
import { ConfigError } from './text.ts';

/** A file of a TLS setting. `name` is the setting with its path, for messages. */
export interface TlsFile {
  readonly name: string;
  readonly text: string;
}

interface TlsFiles {
  readonly key: TlsFile;
  readonly cert: TlsFile;
  readonly clientCa: TlsFile | undefined;
}

const dayMs = 86_400_000;
/**
 * Warns this long before expiry, or a quarter of the lifetime if that is shorter: some certificates
 * are valid for six days.
 */
const expiryWarningMs = 14 * dayMs;

/**
 * Checks key and certificates; throws a ConfigError that names the file. Returns warnings about
 * validity dates.
 */
export function checkTls({ key, cert, clientCa }: TlsFiles, now: number = Date.now()): string[] {
  const chain = certificatesOf(cert);
  const [own] = chain;
  if (own !== undefined && !own.checkPrivateKey(privateKeyOf(key)))
    throw new ConfigError(`${key.name} is not the key of the certificate in ${cert.name}: set a matching pair`);
  const authorities = clientCa === undefined ? [] : certificatesOf(clientCa);
  try {
    createSecureContext({ key: key.text, cert: cert.text, ...(clientCa === undefined ? {} : { ca: clientCa.text }) });
  } catch (error) {
    throw new ConfigError(`${cert.name} and ${key.name} cannot be used for TLS: ${firstLine(error)}`);
  }
  return [
    ...chain.flatMap((each) => datesOf(each, cert, now)),
    ...authorities.flatMap((each) => datesOf(each, clientCa as TlsFile, now)),
  ];
}

function privateKeyOf({ name, text }: TlsFile): KeyObject {
  try {
    return createPrivateKey(text);
  } catch (error) {
    const isEncrypted = (error as NodeJS.ErrnoException).code === 'ERR_MISSING_PASSPHRASE' || /ENCRYPTED/.test(text);
    throw new ConfigError(
      isEncrypted
        ? `${name} is encrypted with a passphrase: decrypt it (openssl pkey -in … -out …)`
        : `${name} contains no PEM private key`,
    );
  }
}

function certificatesOf({ name, text }: TlsFile): X509Certificate[] {
  const blocks = text.match(
    /-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----[^-]*-----END (?:TRUSTED |X509 )?CERTIFICATE-----/g,
  );
  if (blocks === null) throw new ConfigError(`${name} contains no PEM certificate`);
  return blocks.map((block, index) => {
    try {
      return new X509Certificate(block);
    } catch {
      throw new ConfigError(`${name}: certificate ${index + 1} cannot be read`);
    }
  });
}

function datesOf(certificate: X509Certificate, { name }: TlsFile, now: number): string[] {
  const [from, to] = [certificate.validFromDate.getTime(), certificate.validToDate.getTime()];
  const which = `${name}: the certificate of ${certificate.subject.replaceAll('\n', ', ')}`;
  if (to <= now) return [`${which} expired on ${dateOf(to)}: clients refuse it`];
  if (from > now) return [`${which} is not valid before ${dateOf(from)}: clients refuse it until then`];
  if (to - now < Math.min(expiryWarningMs, (to - from) / 4))
    return [`${which} expires on ${dateOf(to)}, in ${Math.floor((to - now) / dayMs)} days`];
  return [];
}

function dateOf(time: number): string {
  return new Date(time).toISOString();
}

function firstLine(error: unknown): string {
  return String(error instanceof Error ? error.message : error).split('\n', 1)[0] ?? '';
}
