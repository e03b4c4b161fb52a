import { limits } from '../limits.ts';
import type { Refusal } from '../messages/service-error.ts';

/** The refusal of a message whose template cannot be rendered. `missing`: variables not given. */
export function templateFailed(name: string, why: string, missing: readonly string[] = []): Refusal {
  return {
    reason: 'TEMPLATE_FAILED',
    message:
      missing.length > 0
        ? `template ${JSON.stringify(name)} needs variables that were not given: ${missing.join(', ')}`
        : `template ${JSON.stringify(name)} cannot be rendered: ${why}`,
    metadata: { template: name, ...(missing.length > 0 ? { missing: missing.join(',') } : {}) },
  };
}

export function payloadTooLarge(name: string, bytes: number): Refusal {
  return {
    reason: 'PAYLOAD_TOO_LARGE',
    message: `template ${JSON.stringify(name)} renders at least ${bytes} bytes, at most ${limits.payloadBytes} are allowed`,
    metadata: { template: name, limit: String(limits.payloadBytes), actual: String(bytes) },
  };
}

/**
 * Encodes a version that did not exist at a batch's submission as a negative number. The batch's
 * messages are refused even if the template is created before they are due.
 */
export function missingVersion(requested: number): number {
  return -1 - requested;
}

/** Decodes the requested version of a possibly missing one; 0: the latest. */
export function requestedVersion(version: number): number {
  return version < 0 ? -1 - version : version;
}

/** The refusal of a message whose template does not exist. */
export function templateMissing(name: string, version: number): Refusal {
  const requested = requestedVersion(version);
  const since = version < 0 ? '; it did not exist when the batch was submitted' : '';
  return {
    reason: 'TEMPLATE_NOT_FOUND',
    message: `template ${JSON.stringify(name)}${requested > 0 ? ` version ${requested}` : ''} does not exist${since}`,
    metadata: { template: name, version: String(requested) },
  };
}
