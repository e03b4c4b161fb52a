import { personType } from '../src/messages/channel.ts';
import type { Draft } from '../src/messages/message.ts';

/**
 * The distribution of messages over channels: few hot ones and a long tail, one channel only, or
 * uniform.
 */
export type Spread = 'zipf' | 'hot' | 'distinct';

/** Number of channels. */
export const channelCount = 100_000;
export const channelIdOf = (rank: number): string => `channel-${rank}`;
export const channelType = 2;
/** The sender of messages to persons, and its receivers. */
export const personSender = 'system';
export const receiverOf = (rank: number): string => `receiver-${rank}`;

/** A small seeded generator (mulberry32): runs must be equal for every contender of a ratio. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function zipfSums(channels: number): Float64Array {
  const sums = new Float64Array(channels);
  let sum = 0;
  for (let rank = 0; rank < channels; rank++) {
    sum += 1 / (rank + 1);
    sums[rank] = sum;
  }
  return sums;
}

/** The rank of a channel under Zipf's law with s = 1, by bisection of the cumulative weights. */
function zipf(sums: Float64Array, random: () => number): number {
  const target = random() * (sums.at(-1) ?? 0);
  let low = 0;
  let high = sums.length - 1;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((sums[middle] ?? 0) < target) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The workload of one run: equal seeds give equal work. */
export interface Workload {
  readonly spread: Spread;
  /** Channels that the messages go to; unset: all. */
  readonly channels?: number;
  readonly batches: number;
  readonly batchMessages: number;
  readonly payloadBytes: number;
  readonly seed: number;
  /** The share of messages that repeat an earlier one of the same workload. */
  readonly duplicates: number;
  /** Every message goes to a channel that does not exist yet. */
  readonly newChannels?: boolean;
  /** From one sender to persons, each with a channel of two members; unset: to groups. */
  readonly toPersons?: boolean;
}

/** A message of a workload: the rank of its channel, and the draft. */
export interface Work extends Draft {
  readonly rank: number;
}

/** Creates the batches: uids of 32 characters, keys of 36, payloads of x. */
export function batchesOf(workload: Workload): Work[][] {
  const random = randomOf(workload.seed);
  const payload = new Uint8Array(workload.payloadBytes).fill(120);
  const sent: Work[] = [];
  const { channels = channelCount } = workload;
  const sums = zipfSums(channels);
  const draft = (): Work => {
    const again =
      workload.duplicates > 0 && random() < workload.duplicates ? sent[Math.floor(random() * sent.length)] : undefined;
    if (again !== undefined) return again;
    const rank =
      workload.spread === 'hot' ? 0 : workload.spread === 'zipf' ? zipf(sums, random) : Math.floor(random() * channels);
    const made: Work = {
      rank,
      header: { noPersist: 0, redDot: 1, syncOnce: 0 },
      clientMsgNo: `${String(workload.seed).padStart(10, '0')}-${String(sent.length).padStart(12, '0')}-0123456789ab`,
      fromUid: workload.toPersons ? personSender : `user-${String(rank % 1000).padStart(6, '0')}-0123456789abcdef0123`,
      channelId: workload.newChannels
        ? `new-${workload.seed}-${sent.length}`
        : workload.toPersons
          ? receiverOf(rank)
          : channelIdOf(rank),
      channelType: workload.toPersons ? personType : channelType,
      expire: 0,
      payload,
      subscribers: [],
      streamNo: '',
      tagKey: '',
    };
    sent.push(made);
    return made;
  };
  return Array.from({ length: workload.batches }, () => Array.from({ length: workload.batchMessages }, draft));
}
