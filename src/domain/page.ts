/** A page out of one entry more than it may hold, which tells whether there is more: `last` is then where the next page begins. */
export function pageOf<T>(
  found: readonly T[],
  limit: number,
): { readonly page: readonly T[]; readonly last: T | undefined } {
  const page = found.slice(0, limit);
  return { page, last: found.length > limit ? page.at(-1) : undefined };
}
