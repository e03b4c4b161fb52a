import { errorText } from '../error-text.ts';
import type { Log } from '../log.ts';
import { metrics } from '../metrics.ts';
import type { Registry } from '../registry.ts';

/** Events of files that are read again while the service runs. */
export function createReloadEvents(log: Log, registry: Registry) {
  const reloads = registry.counter(metrics.reloads);
  for (const files of ['tls', 'token_secrets'])
    for (const outcome of ['ok', 'failed']) reloads.add(0, { files, outcome });
  return {
    /** Changed files were read and are in use. */
    reloaded(files: string, warnings: readonly string[]): void {
      reloads.add(1, { files, outcome: 'ok' });
      log('reloaded', { files });
      for (const warning of warnings) log('settingSuspicious', { files, warning });
    },
    /**
     * Changed files cannot be used; the previous content stays in use. `isNew`: the last attempt
     * did not fail for this cause.
     */
    reloadFailed(files: string, error: unknown, isNew: boolean): void {
      reloads.add(1, { files, outcome: 'failed' });
      if (isNew) log('reloadFailed', { files, cause: errorText(error) });
    },
  };
}
