import { limits } from '../limits.ts';

/**
 * A page out of one entry more than it may hold, which tells whether there is more: `last` is then where the next page
 * begins. The one rule for every answer that holds a list: at most `limit` entries and about 3 MiB, at least one entry.
 * gRPC clients refuse an answer above 4 MiB unless configured otherwise.
 */
export function pageOf<T>(
  found: readonly T[],
  limit: number,
): { readonly page: readonly T[]; readonly last: T | undefined } {
  const page = withinBytes(found.slice(0, limit));
  return { page, last: found.length > page.length ? page.at(-1) : undefined };
}

/** The first entries that fit an answer, at least one. */
export function withinBytes<T>(entries: readonly T[]): readonly T[] {
  let bytes = 0;
  const end = entries.findIndex((entry, index) => {
    bytes += bytesOf(entry);
    return index > 0 && bytes > limits.pageBytes;
  });
  return end === -1 ? entries : entries.slice(0, end);
}

/** About the bytes of a value in an answer, and rather more than less: names count, which Protobuf sends in maps only. */
export function bytesOf(value: unknown): number {
  if (typeof value === 'string') return Buffer.byteLength(value) + 3;
  if (value instanceof Uint8Array) return value.length + 3;
  if (typeof value !== 'object' || value === null) return 8;
  let bytes = 4;
  if (Array.isArray(value)) for (const each of value) bytes += bytesOf(each);
  else for (const name in value) bytes += name.length + bytesOf(value[name as keyof typeof value]);
  return bytes;
}
