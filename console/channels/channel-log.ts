import type { Client } from '@connectrpc/connect';
import {
  type ChannelType,
  type Message,
  type MessageService,
  MessageState,
  type Sendbatch,
} from '../../src/client/index.ts';
import { createStore, type Store } from '../api/store.ts';

/** A channel as the page knows it. */
export interface LogState {
  /** The first kept sequence; 0 before it is known and in an empty channel. */
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly isOpen: boolean;
  /** `ended`: by an error that no retry can fix. */
  readonly tail: 'starting' | 'live' | 'reconnecting' | 'ended';
  /** Why something could not be read; the next success clears it. */
  readonly error: unknown;
  /** Grows when what could not be read should be tried again. */
  readonly attempt: number;
  /** Grows with every change of the messages. */
  readonly version: number;
}

export interface ChannelLogParts {
  readonly rpc: Client<typeof MessageService>;
  readonly sendbatch: Sendbatch;
  readonly channelType: ChannelType;
  readonly channelId: string;
}

/** Messages per call; a block is read when a row of it is shown. */
const blockSize = 100;
/** Blocks in memory, 20,000 messages: about 40 MB when each has 2 kB. */
const maxBlocks = 200;

/**
 * The messages of a channel by sequence, read in blocks where the page scrolls to, and followed
 * live. Sequences have no gaps, so the sequence is the row: scrolling to any of 100,000 messages
 * reads one block.
 */
export class ChannelLog {
  readonly #parts: ChannelLogParts;
  readonly #store: Store<LogState>;
  /** In the order of their last use. */
  readonly #blocks = new Map<number, (Message | null | undefined)[]>();
  readonly #loading = new Set<number>();
  readonly #stop = new AbortController();
  readonly #pending: Message[] = [];
  #frame = 0;

  readonly subscribe: (listener: () => void) => () => void;
  readonly get: () => LogState;

  constructor(parts: ChannelLogParts) {
    this.#parts = parts;
    this.#store = createStore<LogState>({
      firstSeq: 0,
      lastSeq: 0,
      isOpen: false,
      tail: 'starting',
      error: undefined,
      attempt: 0,
      version: 0,
    });
    this.subscribe = this.#store.subscribe;
    this.get = this.#store.get;
  }

  /** Reads the bounds of the channel, then follows it until `close`. Again after an error. */
  async open(): Promise<void> {
    const { rpc, channelType, channelId } = this.#parts;
    const { signal } = this.#stop;
    this.#change({ error: undefined, tail: 'starting' });
    try {
      const { messages, lastSeq } = await rpc.listMessages({ channelType, channelId, limit: 1 }, { signal });
      this.#change({ firstSeq: Number(messages[0]?.messageSeq ?? 0n), lastSeq: Number(lastSeq), isOpen: true });
      await this.#follow(lastSeq);
    } catch (error) {
      if (!signal.aborted) this.#change({ error, tail: 'ended' });
    }
  }

  close(): void {
    this.#stop.abort();
    cancelAnimationFrame(this.#frame);
  }

  /** The message of a sequence: null when it is no longer kept, undefined while it is not read. */
  at(seq: number): Message | null | undefined {
    return this.#blocks.get(blockOf(seq))?.[(seq - 1) % blockSize];
  }

  /** Reads what is missing between two sequences. */
  need(first: number, last: number): void {
    const { lastSeq } = this.get();
    for (let block = blockOf(Math.max(first, 1)); block <= blockOf(Math.min(last, lastSeq)); block++)
      if (!this.#isComplete(block)) void this.#load(block);
  }

  /** Lets the page ask again for what could not be read. */
  retry(): void {
    this.#change({ error: undefined, attempt: this.get().attempt + 1 });
  }

  #isComplete(block: number): boolean {
    const known = this.#blocks.get(block);
    if (known === undefined) return false;
    const size = Math.min(blockSize, this.get().lastSeq - block * blockSize);
    for (let index = 0; index < size; index++) if (known[index] === undefined) return false;
    return true;
  }

  async #load(block: number): Promise<void> {
    if (this.#loading.has(block)) return;
    this.#loading.add(block);
    const { rpc, channelType, channelId } = this.#parts;
    const { signal } = this.#stop;
    const known = this.#open(block);
    const end = Math.min((block + 1) * blockSize, this.get().lastSeq);
    try {
      // An answer holds at most 3 MiB, so a block of long messages takes several.
      for (let afterSeq = BigInt(block * blockSize); ; ) {
        const request = { channelType, channelId, afterSeq, beforeSeq: BigInt(end + 1), limit: blockSize };
        const { messages, more, nextSeq } = await rpc.listMessages(request, { signal });
        for (const message of messages) {
          const index = (Number(message.messageSeq) - 1) % blockSize;
          known[index] = newest(known[index], message);
        }
        if (!more || nextSeq === undefined) break;
        afterSeq = nextSeq;
      }
      for (let index = 0; index < end - block * blockSize; index++) known[index] ??= null;
      this.#change({ error: undefined });
    } catch (error) {
      if (!signal.aborted) this.#change({ error });
    } finally {
      this.#loading.delete(block);
    }
  }

  /** The block, made the most recently used one. */
  #open(block: number): (Message | null | undefined)[] {
    const known = this.#blocks.get(block) ?? [];
    this.#blocks.delete(block);
    this.#blocks.set(block, known);
    for (const oldest of this.#blocks.keys()) {
      if (this.#blocks.size <= maxBlocks) break;
      this.#blocks.delete(oldest);
    }
    return known;
  }

  async #follow(afterSeq: bigint): Promise<void> {
    const { sendbatch, channelType, channelId } = this.#parts;
    const messages = sendbatch.tail(
      { channels: [{ channelType, channelId, afterSeq }] },
      {
        signal: this.#stop.signal,
        onCaughtUp: () => {
          this.#change({ tail: 'live' });
          if (this.get().error !== undefined) this.retry();
        },
        onResume: () => this.#change({ tail: 'reconnecting' }),
        onChanged: ({ message }) => {
          if (message === undefined) return;
          const block = this.#blocks.get(blockOf(Number(message.messageSeq)));
          if (block === undefined) return;
          block[(Number(message.messageSeq) - 1) % blockSize] = message;
          this.#change({});
        },
      },
    );
    for await (const message of messages) {
      if (message.messageSeq === 0n) continue;
      this.#pending.push(message);
      // A busy channel changes the page once per frame, not once per message.
      this.#frame ||= requestAnimationFrame(() => this.#flush());
      // A hidden page has no frames; its messages are shown when it is seen again.
      if (this.#pending.length >= maxBlocks * blockSize) this.#flush();
    }
  }

  #flush(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    let { firstSeq, lastSeq } = this.get();
    for (const message of this.#pending.splice(0)) {
      const seq = Number(message.messageSeq);
      this.#open(blockOf(seq))[(seq - 1) % blockSize] = message;
      if (firstSeq === 0) firstSeq = seq;
      lastSeq = Math.max(lastSeq, seq);
    }
    this.#change({ firstSeq, lastSeq, tail: 'live' });
  }

  #change(change: Partial<LogState>): void {
    const state = this.get();
    this.#store.set({ ...state, ...change, version: state.version + 1 });
  }
}

/** A page may arrive after a change that it does not contain. */
function newest(known: Message | null | undefined, read: Message): Message {
  if (!known || read.state === MessageState.RECALLED) return read;
  const isNewer = known.state === MessageState.RECALLED || (known.revision ?? 0) > (read.revision ?? 0);
  return isNewer ? known : read;
}

function blockOf(seq: number): number {
  return Math.floor((seq - 1) / blockSize);
}
