import { invalidField } from '../messages/service-error.ts';

/**
 * The whole numbers of a page token; none when it is empty. Refuses tokens that no answer contains:
 * numbers above 2^53-1, or with leading zeros.
 */
export function parsePageToken(pageToken: string): number[] {
  const parts = pageToken === '' ? [] : pageToken.split('-');
  return parts.map((part) => {
    const value = Number(part);
    if (!Number.isSafeInteger(value) || value < 0 || String(value) !== part)
      throw invalidField('page_token', 'must be the next_page_token of an answer to the same call, or empty');
    return value;
  });
}
