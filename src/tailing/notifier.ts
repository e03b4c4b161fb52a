import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';

/** A channel that was created: its type, id and key. */
export type CreatedChannel = readonly [type: number, id: string, channelKey: number];

/**
 * What an instance publishes to the others. Hints only: the database is the truth, and every
 * instance polls.
 */
export interface Hints {
  /** Keys of channels in which messages were stored. */
  readonly stored: readonly number[];
  /** Users that joined or left channels. */
  readonly members: readonly string[];
  /** Keys of channels in which messages were edited or recalled. */
  readonly edited: readonly number[];
  /** Keys of channels whose members, lists or flags have changed. */
  readonly changed: readonly number[];
  /** Created channels. */
  readonly made: readonly CreatedChannel[];
  /** More channels were created than a notification names. */
  readonly someMade: boolean;
  /** Ids of ephemeral messages. */
  readonly live: readonly number[];
  /** More channels than a notification names: poll everything. */
  readonly all: boolean;
}

export interface NotifierOptions {
  readonly send: (payloads: readonly string[]) => Promise<void>;
  /** Listens; resolves when the connection ends, rejects when it cannot be opened. */
  readonly listen: (onPayload: (payload: string) => void, onOpen: () => void) => Promise<void>;
  /**
   * Receives hints of other instances; `all` after the connection was opened, since earlier ones
   * were missed.
   */
  readonly onHints: (hints: Hints) => void;
  readonly onError: (error: unknown) => void;
}

export interface Notifier {
  publish(hints: Partial<Hints>): void;
  stop(abort: () => Promise<void>): Promise<void>;
}

/** Hints of this long share a statement: at most 50 statements per second, however many commits. */
const flushMs = 20;
/** Bytes per payload; NOTIFY takes 8,000. */
const payloadBytes = 7000;
/** More channels than this are published as "all": a poll costs few statements. */
const maxChannelsNamed = 2000;
const firstPauseMs = 100;
const longestPauseMs = 5000;
const nothing: Hints = {
  stored: [],
  edited: [],
  members: [],
  changed: [],
  made: [],
  someMade: false,
  live: [],
  all: false,
};

/**
 * Publishes hints of this instance, coalesced and off the path of sends, and receives those of
 * others.
 */
export function startNotifier({ send, listen, onHints, onError }: NotifierOptions): Notifier {
  const self = randomUUID().slice(0, 8);
  const stored = new Set<number>();
  const edited = new Set<number>();
  const changed = new Set<number>();
  const members = new Set<string>();
  const live = new Set<number>();
  let made: CreatedChannel[] = [];
  let flushing: Promise<void> | undefined;
  let stopped = false;
  const stopping = new AbortController();

  async function flush(): Promise<void> {
    await delay(flushMs);
    const payloads = payloadsOf(self, { stored, edited, changed, members, live, made });
    made = [];
    for (const set of [stored, edited, changed, members, live]) set.clear();
    // A lost hint delays tails until the next poll.
    if (payloads.length > 0) await send(payloads).catch(onError);
    flushing = undefined;
    if (stored.size + edited.size + changed.size + members.size + live.size + made.length > 0) flushing = flush();
  }

  async function keepListening(): Promise<void> {
    let pause = firstPauseMs;
    while (!stopped) {
      try {
        await listen(
          (payload) => {
            const hints = hintsOf(self, payload);
            if (hints !== undefined) onHints(hints);
          },
          () => {
            pause = firstPauseMs;
            onHints({ ...nothing, all: true });
          },
        );
      } catch (error) {
        if (!stopped) onError(error);
      }
      if (stopped) return;
      await delay(pause * (0.5 + Math.random() / 2), undefined, { ref: false, signal: stopping.signal }).catch(
        () => {},
      );
      pause = Math.min(pause * 2, longestPauseMs);
    }
  }

  const listening = keepListening();
  return {
    publish(hints) {
      if (stopped) return;
      for (const key of hints.stored ?? []) stored.add(key);
      for (const key of hints.edited ?? []) edited.add(key);
      for (const key of hints.changed ?? []) changed.add(key);
      for (const uid of hints.members ?? []) members.add(uid);
      for (const id of hints.live ?? []) live.add(id);
      made.push(...(hints.made ?? []));
      flushing ??= flush();
    },
    async stop(abort) {
      stopped = true;
      stopping.abort();
      await flushing;
      await abort();
      await listening;
    },
  };
}

interface Pending {
  readonly stored: ReadonlySet<number>;
  readonly edited: ReadonlySet<number>;
  readonly changed: ReadonlySet<number>;
  readonly members: ReadonlySet<string>;
  readonly live: ReadonlySet<number>;
  readonly made: readonly CreatedChannel[];
}

type Entry = string | number | CreatedChannel;

function payloadsOf(self: string, { stored, edited, changed, members, live, made }: Pending): string[] {
  const lists: [string, readonly Entry[]][] = [
    stored.size > maxChannelsNamed ? ['a', [1]] : ['s', [...stored]],
    ['e', [...edited]],
    ['c', [...changed]],
    ['m', [...members]],
    ['l', [...live]],
    ['n', made.length > maxChannelsNamed ? [1] : made],
  ];
  return lists.flatMap(([kind, entries]) => {
    const payloads: string[] = [];
    let part: Entry[] = [];
    let bytes = 0;
    const close = () => {
      if (part.length > 0) payloads.push(JSON.stringify([self, kind, ...part]));
      part = [];
      bytes = 0;
    };
    for (const entry of entries) {
      const size = Buffer.byteLength(JSON.stringify(entry)) + 1;
      if (bytes + size > payloadBytes) close();
      part.push(entry);
      bytes += size;
    }
    close();
    return payloads;
  });
}

/** Parses a payload; undefined if it is this instance's own, or of an unknown kind. */
function hintsOf(self: string, payload: string): Hints | undefined {
  let parts: unknown;
  try {
    parts = JSON.parse(payload);
  } catch {
    return undefined;
  }
  if (!Array.isArray(parts) || parts[0] === self) return undefined;
  const [, kind, ...entries] = parts;
  if (kind === 'a') return { ...nothing, all: true };
  if (kind === 's') return { ...nothing, stored: entries };
  if (kind === 'n') {
    const named = entries.filter((entry): entry is CreatedChannel => Array.isArray(entry));
    return { ...nothing, made: named, someMade: named.length < entries.length };
  }
  if (kind === 'e') return { ...nothing, edited: entries };
  if (kind === 'c') return { ...nothing, changed: entries };
  if (kind === 'm') return { ...nothing, members: entries };
  if (kind === 'l') return { ...nothing, live: entries };
  return undefined;
}
