/** The next messages of a channel that a reader wants. */
export interface After {
  readonly channelKey: number;
  readonly afterSeq: number;
}

/** Reads a page for each of these, in their order. */
export type ReadPages<Page> = (wanted: readonly After[]) => Promise<readonly Page[]>;

interface Waiting<Page> {
  readonly after: After;
  readonly resolve: (page: Page) => void;
  readonly reject: (reason: unknown) => void;
}

/** Channels per read. With more, each page is so short that readers of busy channels fall behind. */
const mostChannels = 16;
/**
 * Reads at once. More requests wait and share the next read, as messages share a commit; a read
 * that the database holds up leaves the others their way.
 */
const mostReads = 4;

/**
 * Reads pages for many readers by few statements. One commit wakes the readers of all channels that
 * it wrote to, and a statement for each of them costs more than their messages.
 */
export function gatherReads<Page>(read: ReadPages<Page>): (channelKey: number, afterSeq: number) => Promise<Page> {
  let waiting: Waiting<Page>[] = [];
  let running = 0;
  let isScheduled = false;

  // Readers that were woken together ask within one turn of the event loop.
  function schedule(): void {
    if (isScheduled || running === mostReads || waiting.length === 0) return;
    isScheduled = true;
    setImmediate(() => {
      isScheduled = false;
      const part = waiting.slice(0, mostChannels);
      waiting = waiting.slice(mostChannels);
      running++;
      void run(part);
      schedule();
    });
  }

  async function run(part: readonly Waiting<Page>[]): Promise<void> {
    try {
      const pages = await read(part.map(({ after }) => after));
      for (const [index, { resolve }] of part.entries()) resolve(pages[index] as Page);
    } catch (error) {
      for (const { reject } of part) reject(error);
    } finally {
      running--;
      schedule();
    }
  }

  return async (channelKey, afterSeq) =>
    await new Promise((resolve, reject) => {
      waiting.push({ after: { channelKey, afterSeq }, resolve, reject });
      schedule();
    });
}
