import { create } from '@bufbuild/protobuf';
import { type MessageDraft, MessageDraftSchema } from '../gen/sendbatch/v1/message_pb.ts';

/** Which channels the messages go to. */
export type Spread = 'zipf' | 'hot' | 'distinct';

const channels = 100_000;

/** A small seeded generator (mulberry32): runs must be the same for every side of a ratio. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const zipfSums = (() => {
  const sums = new Float64Array(channels);
  let sum = 0;
  for (let rank = 0; rank < channels; rank++) {
    sum += 1 / (rank + 1);
    sums[rank] = sum;
  }
  return sums;
})();

/** The rank of a channel under Zipf's law with s = 1, by bisection of the cumulated weights. */
function zipf(random: () => number): number {
  const target = random() * (zipfSums[channels - 1] ?? 0);
  let low = 0;
  let high = channels - 1;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((zipfSums[middle] ?? 0) < target) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Makes batches: payloads of `bytes`, channels by `spread`, every message under a key of its own. */
export function batchesOf(options: { spread: Spread; size: number; bytes: number; seed: number; run: string }) {
  const random = randomOf(options.seed);
  const payload = new Uint8Array(options.bytes).fill(120);
  let count = 0;
  return (): MessageDraft[] =>
    Array.from({ length: options.size }, () => {
      const rank =
        options.spread === 'hot' ? 0 : options.spread === 'zipf' ? zipf(random) : Math.floor(random() * channels);
      return create(MessageDraftSchema, {
        header: { redDot: 1 },
        clientMsgNo: `${options.run}-${count++}-0123456789abcdef`,
        fromUid: `user-${rank % 1000}-0123456789abcdef0123`,
        channelId: `channel-${rank}`,
        channelType: 2,
        payload,
      });
    });
}
