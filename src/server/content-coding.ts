import type { Request } from '../rpc/request-context.ts';

/** Whether a client accepts a content coding: named, and not with a weight of 0 (RFC 9110, 12.5.3). */
export function acceptsCoding({ headers }: Pick<Request, 'headers'>, coding: 'br' | 'gzip'): boolean {
  return String(headers['accept-encoding'] ?? '')
    .toLowerCase()
    .split(',')
    .some((each) => {
      const [name, ...parameters] = each.split(';').map((part) => part.trim());
      return name === coding && !parameters.some((parameter) => /^q=0(\.0*)?$/.test(parameter));
    });
}
