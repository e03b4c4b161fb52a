/**
 * Age at which the stored list is read again. Only calls with a token read it, so an idle service
 * reads nothing.
 */
const memoryMs = 1000;

/**
 * Checks whether a uid is a system uid in the settings or the store. The stored list is read at
 * most once per second; while it cannot be read the last one is used, and a failed first read fails
 * the call.
 */
export function createSystemUidCheck(
  configured: readonly string[],
  listStored: () => Promise<readonly string[]>,
  now: () => number = () => performance.now(),
): (uid: string) => Promise<boolean> {
  const fixed = new Set(configured);
  let stored: ReadonlySet<string> | undefined;
  let readAt = Number.NEGATIVE_INFINITY;
  let reading: Promise<void> | undefined;
  const read = async () => {
    try {
      stored = new Set(await listStored());
    } catch (error) {
      if (stored === undefined) throw error;
    } finally {
      readAt = now();
      reading = undefined;
    }
  };
  return async (uid) => {
    if (fixed.has(uid)) return true;
    if (stored === undefined || now() - readAt >= memoryMs) {
      reading ??= read();
      await reading;
    }
    return stored?.has(uid) === true;
  };
}
