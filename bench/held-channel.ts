import pg from 'pg';
import type { Machine } from './machine.ts';
import { spread } from './measure.ts';
import { channelType } from './workload.ts';

const seconds = 8;
const beside = 16;
const besideBatches = 4;

/** The sends beside the held channel in one measurement. */
interface Counted {
  readonly singles: number;
  readonly batches: number;
  /** The longest time without a success, in ms. */
  readonly longestPauseMs: number;
}

/**
 * Measures rates beside a channel that another session holds locked, as a share of those without
 * the hold; both follow each other within a round.
 */
export async function heldChannel(machine: Machine, url: string, pairs: number): Promise<string> {
  const holder = new pg.Client({ connectionString: machine.url });
  await holder.connect();
  const rates = { singles: [] as number[], batches: [] as number[], pauses: [] as number[] };
  try {
    await load(url, 1);
    for (let round = 0; round < pairs; round++) {
      const free = await load(url, seconds);
      await holder.query('begin');
      await holder.query(
        `select from sendbatch.channel_head join sendbatch.channel using (channel_key) where channel_id = 'channel-0' for update of channel_head`,
      );
      const held = await load(url, seconds);
      await holder.query('rollback');
      rates.singles.push(held.singles / free.singles);
      rates.batches.push(held.batches / free.batches);
      rates.pauses.push(held.longestPauseMs);
    }
  } finally {
    await holder.end();
  }
  return [
    '| beside the held channel, in its lane | of the rate without the hold |',
    '|---|---|',
    `| single messages to other channels | ${spread(rates.singles, 2)} |`,
    `| batches of 10, one message of which is for the held channel | ${spread(rates.batches, 2)} |`,
    '',
    `The longest time without a success was ${spread(rates.pauses, 0)} ms.`,
  ].join('\n');
}

/**
 * Closed loops: two senders to the channel that may be held, others to other channels, and batches
 * with one message to it.
 */
async function load(url: string, forSeconds: number): Promise<Counted> {
  const end = performance.now() + forSeconds * 1000;
  let singles = 0;
  let batches = 0;
  let lastSuccess = performance.now();
  let longestPauseMs = 0;
  const succeeded = () => {
    const now = performance.now();
    longestPauseMs = Math.max(longestPauseMs, now - lastSuccess);
    lastSuccess = now;
  };
  const loop = async (channels: () => readonly number[], onStored: (stored: number) => void) => {
    while (performance.now() < end) {
      const messages = channels().map((channel) => ({
        channel_id: `channel-${channel}`,
        channel_type: channelType,
        from_uid: 'bench',
        payload: 'eA==',
      }));
      const response = await fetch(`${url}/message/sendbatch`, { method: 'POST', body: JSON.stringify(messages) });
      const answer = (await response.json()) as readonly { readonly message_id?: number }[];
      if (Array.isArray(answer)) onStored(answer.filter((each) => (each.message_id ?? 0) > 0).length);
    }
  };
  const other = () => 1 + Math.floor(Math.random() * 1000);
  await Promise.all([
    ...Array.from({ length: 2 }, () =>
      loop(
        () => [0],
        () => {},
      ),
    ),
    ...Array.from({ length: beside }, () =>
      loop(
        () => [other()],
        (stored) => {
          if (stored !== 1) return;
          singles++;
          succeeded();
        },
      ),
    ),
    ...Array.from({ length: besideBatches }, () =>
      loop(
        () => [0, ...Array.from({ length: 9 }, other)],
        (stored) => {
          if (stored >= 9) batches++;
        },
      ),
    ),
  ]);
  return { singles, batches, longestPauseMs };
}
