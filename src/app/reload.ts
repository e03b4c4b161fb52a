/**
 * Replaces the TLS certificate and the token secrets while the service runs.
 *
 * - Every 12 s, and on SIGHUP, the files' stat is compared with that of the last good read; only
 *   changed files are read.
 * - `stat` follows links, so a rename and the swapped `..data` link of a Kubernetes secret are
 *   changes. It works on network file systems too, where inotify does not.
 * - Files that cannot be used change nothing: the previous content stays in use, and the next check
 *   reads them again.
 */
import { X509Certificate } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { isatty } from 'node:tty';
import { isDeepStrictEqual } from 'node:util';
import type { Config, Reloadable } from '../config/index.ts';
import type { Events } from '../observability/events/index.ts';
import { startLoop } from '../observability/loop.ts';
import { metrics } from '../observability/metrics.ts';
import type { CredentialWatch } from '../rpc/credential-watch.ts';
import type { Listener } from '../server/port.ts';
import type { Foundation } from './foundation.ts';

/** A change is in use at most 15 s later: the loop's interval varies by a fifth. */
const checkMs = 12_000;

/** A tool that writes key and certificate one after the other has this long between the two. */
const settleMs = 500;
const settleAttempts = 4;

/**
 * Whether SIGHUP means "reload". Without files to read again it means nothing, and must not end a
 * service (`systemctl reload`). In a terminal that is closed it ends the process, as it does by
 * default.
 */
export function hearsReload({ reload }: Config): boolean {
  return reload.tls !== undefined || reload.tokenSecrets !== undefined || !isatty(0);
}

/**
 * Starts the checks of the files that the settings name. Returns a function that checks them now.
 */
export function startReload(
  { config, events, lifecycle, registry }: Pick<Foundation, 'config' | 'events' | 'lifecycle' | 'registry'>,
  listener: Pick<Listener, 'replaceTls'>,
  credentials: Pick<CredentialWatch, 'recheckTokens'>,
): () => void {
  const { tls, tokenSecrets, everyMs = checkMs } = config.reload;
  const { key } = config.identity.tokens ?? {};
  const checks: (() => Promise<void>)[] = [];
  let expiry = certificateExpiry(config.tls);
  registry.gauge(metrics.certificateExpiry, () => [{ value: expiry }]);
  if (tls !== undefined) {
    let current = config.tls;
    checks.push(
      createCheck('tls', tls, events, async (next) => {
        if (isDeepStrictEqual(next.tls, current)) return undefined;
        listener.replaceTls(next.tls);
        current = next.tls;
        expiry = certificateExpiry(current);
        return next.warnings;
      }),
    );
  }
  if (tokenSecrets !== undefined && key !== undefined && 'secrets' in key)
    checks.push(
      createCheck('token_secrets', tokenSecrets, events, async (next) => {
        if (isDeepStrictEqual(next, key.secrets.current)) return undefined;
        key.secrets.current = next;
        await credentials.recheckTokens();
        return [];
      }),
    );
  if (checks.length === 0) return () => {};
  const loop = startLoop({
    everyMs,
    async run() {
      for (const check of checks) await check();
    },
    onError: (error) => events.reloadFailed('unknown', error, true),
  });
  lifecycle.onStop('reload', () => loop.stop());
  return loop.nudge;
}

/** Unix time in seconds; 0 without TLS. */
function certificateExpiry(tls: Config['tls']): number {
  return tls === undefined ? 0 : new X509Certificate(tls.cert).validToDate.getTime() / 1000;
}

/** `apply` returns undefined where the content is in use already, else the warnings about it. */
function createCheck<T>(
  name: string,
  source: Reloadable<T>,
  { reloaded, reloadFailed }: Pick<Events, 'reloaded' | 'reloadFailed'>,
  apply: (next: T) => Promise<readonly string[] | undefined>,
): () => Promise<void> {
  let readStat: string | undefined;
  let fault: string | undefined;
  const check = async (attempts: number): Promise<void> => {
    const currentStat = await statOf(source.files);
    if (currentStat === readStat) {
      fault = undefined;
      return;
    }
    try {
      const warnings = await apply(source.read());
      readStat = currentStat;
      fault = undefined;
      if (warnings !== undefined) reloaded(name, warnings);
    } catch (error) {
      await delay(settleMs);
      if (attempts > 1 && (await statOf(source.files)) !== currentStat) return await check(attempts - 1);
      const cause = String(error);
      reloadFailed(name, error, cause !== fault);
      fault = cause;
    }
  };
  return () => check(settleAttempts);
}

/** Changes with each file's content: ctime cannot be set back, as mtime can. */
async function statOf(files: readonly string[]): Promise<string> {
  const stats = await Promise.all(
    files.map((file) =>
      stat(file, { bigint: true }).then(
        ({ dev, ino, size, ctimeNs }) => `${dev} ${ino} ${size} ${ctimeNs}`,
        (error: NodeJS.ErrnoException) => error.code,
      ),
    ),
  );
  return stats.join('\n');
}
