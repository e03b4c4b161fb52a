import { limits } from '../limits.ts';
import { type StoredMessage, StoredRow } from './stored-row.ts';

/**
 * Cuts a page out of entries read with one more than `limit`. `last`: the entry after which the
 * next page begins, if there is one. The rule of every answer with a list: at most `limit` entries
 * and about 3 MiB, at least one entry. gRPC clients refuse an answer above 4 MiB unless configured
 * otherwise.
 */
export function pageOf<T>(
  found: readonly T[],
  limit: number,
): { readonly page: readonly T[]; readonly last: T | undefined } {
  const page = withinBytes(found.slice(0, limit));
  return { page, last: found.length > page.length ? page.at(-1) : undefined };
}

/** The first entries that fit into an answer, at least one. */
export function withinBytes<T>(entries: readonly T[]): readonly T[] {
  let bytes = 0;
  const end = entries.findIndex((entry, index) => {
    bytes += bytesOf(entry);
    return index > 0 && bytes > limits.pageBytes;
  });
  return end === -1 ? entries : entries.slice(0, end);
}

/** The bytes of a message whose fields are all empty. */
const emptyBytes = bytesOf({
  messageId: 0,
  messageSeq: 0,
  acceptedAt: 0,
  flags: 0,
  fromUid: '',
  clientMsgNo: '',
  payload: Buffer.alloc(0),
  expire: 0,
  streamNo: '',
  tagKey: '',
  subscribers: [],
} satisfies StoredMessage);

/** The bytes of a row: as many as those of an object with its fields. */
function rowBytes({ contentBytes, subscribers, changes }: StoredRow): number {
  let bytes = emptyBytes + contentBytes;
  for (const uid of subscribers) bytes += bytesOf(uid);
  if (changes !== undefined) bytes += 'changes'.length + bytesOf(changes);
  return bytes;
}

/** Approximate bytes of a value in an answer, rather more than less: field names count too. */
export function bytesOf(value: unknown): number {
  if (typeof value === 'string') return Buffer.byteLength(value) + 3;
  if (value instanceof Uint8Array) return value.length + 3;
  if (typeof value !== 'object' || value === null) return 8;
  if (value instanceof StoredRow) return rowBytes(value);
  let bytes = 4;
  if (Array.isArray(value)) for (const each of value) bytes += bytesOf(each);
  else for (const name in value) bytes += name.length + bytesOf(value[name as keyof typeof value]);
  return bytes;
}
