import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { createHttpClient, inParallel } from '../contenders/http.ts';
import { jsonOf, oncePerChannel, personOf, personsOf, toPersons } from '../contenders/json.ts';
import { channelIdOf, channelType, type Work } from '../workload.ts';
import { type Peer, programOf, startServer, stopServer } from './peer.ts';

const port = 15101;
/** The hottest channels, which are verified: they hold half of the messages. */
const sampled = 100;
/** It stores after it answers; what has not followed after this long without progress is lost. */
const settleMs = 6000;
const sum = (numbers: readonly number[]) => numbers.reduce((total, each) => total + each, 0);

export const wuKongIm: Peer = {
  name: 'WuKongIM',
  words:
    'WuKongIM 2.2.5, one node: it answers before it checks and stores a message, which follows in its own log (Pebble, synced), numbered per channel, unless a time-out drops it (“store message failed” in its log); no once-only key, a repeat is stored twice. A batch is its object form, one payload to 100 persons; single messages go to group channels. p50 and p99 are those of the answers.',
  async start() {
    const program = programOf('WUKONGIM');
    const dir = await mkdtemp(join(tmpdir(), 'sendbatch-wukongim-'));
    // It spells the path of this socket in lower case, which the folder's name is not.
    const socketPath = join(tmpdir(), `sendbatch-wukongim-${process.pid}.sock`);
    // It reads YAML, of which JSON is a part.
    const config = {
      mode: 'release',
      rootDir: join(dir, 'data'),
      logger: { dir: join(dir, 'logs'), level: 4 },
      addr: `tcp://127.0.0.1:${port - 1}`,
      httpAddr: `127.0.0.1:${port}`,
      wsAddr: `ws://127.0.0.1:${port + 1}`,
      manager: { on: false },
      demo: { on: false },
      plugin: { socketPath },
      cluster: { nodeId: 1, addr: `tcp://127.0.0.1:${port + 2}`, serverAddr: `127.0.0.1:${port + 2}` },
    };
    await writeFile(join(dir, 'wk.yaml'), JSON.stringify(config));
    const child = await startServer(program, ['--config', join(dir, 'wk.yaml')], port);
    const url = `http://127.0.0.1:${port}`;
    await storesMessages(url);
    return {
      url,
      pid: child.pid ?? 0,
      async stop() {
        await stopServer(child);
        await rm(dir, { recursive: true });
        await rm(socketPath, { force: true });
      },
    };
  },
  async open(url, batches) {
    const client = createHttpClient(url);
    const single = batches[0]?.length === 1;
    const requestOf = (batch: readonly Work[]) =>
      single && batch[0] !== undefined
        ? client.requestOf('/message/send', jsonOf(batch[0]))
        : client.requestOf('/message/sendbatch', toPersons(batch));
    const ask = async (request: Buffer) => {
      const answer = await client.ask(request);
      if (!answer.includes(single ? '"message_id":' : '"fail_uids":[]')) throw new Error(answer.slice(0, 300));
    };
    const lastSeqs = async () => {
      const seqs: number[] = [];
      await inParallel(Array.from({ length: sampled }), async (_, rank) => {
        const channel = single
          ? `channel_id=${channelIdOf(rank)}&channel_type=${channelType}`
          : `channel_id=${personOf(rank)}&channel_type=1&login_uid=bench`;
        const answer = await client
          .ask(client.requestOf(`/channel/max_message_seq?${channel}`))
          .catch((error: Error) => {
            // A channel that has no message yet.
            if (!error.message.includes('not found')) throw error;
            return '{"message_seq":0}';
          });
        seqs[rank] = (JSON.parse(answer) as { message_seq: number }).message_seq;
      });
      return seqs;
    };
    /**
     * Waits until the sampled channels have stored what was sent, or store no more; returns what
     * they hold.
     */
    const settled = async (wanted?: readonly number[]) => {
      let held = await lastSeqs();
      for (let since = performance.now(); performance.now() - since < settleMs; ) {
        if (wanted !== undefined && held.every((seq, rank) => seq === wanted[rank])) break;
        await delay(200);
        const now = await lastSeqs();
        if (sum(now) > sum(held)) since = performance.now();
        held = now;
      }
      return held;
    };
    const requests = batches.map(requestOf);
    const warmUp = oncePerChannel(batches, !single).flatMap((works) =>
      single ? works.map((work) => [work]) : [works],
    );
    await inParallel(warmUp, async (works) => ask(requestOf(works)));
    const wanted = await settled();
    for (const works of batches)
      for (const rank of single ? works.map((work) => work.rank) : personsOf(works))
        if (rank < sampled) wanted[rank] = (wanted[rank] ?? 0) + 1;
    return {
      async send(index) {
        const request = requests[index];
        if (request === undefined) throw new Error(`no batch ${index}`);
        await ask(request);
      },
      async close() {
        const lost = sum(wanted) - sum(await settled(wanted));
        if (lost > 0)
          console.error(`  WuKongIM: ${lost} messages that it answered are not in the ${sampled} hottest channels`);
        client.close();
      },
    };
  },
};

/** Its port answers before its cluster of one is ready; stopped in between, it would end. */
async function storesMessages(url: string): Promise<void> {
  const channel = { channel_id: 'ready', channel_type: channelType };
  for (const end = performance.now() + 60_000; performance.now() < end; await delay(500)) {
    await fetch(`${url}/message/send`, {
      method: 'POST',
      body: JSON.stringify({ ...channel, header: {}, from_uid: 'bench', payload: 'eA==' }),
    });
    const answer = await fetch(`${url}/channel/max_message_seq?channel_id=ready&channel_type=${channelType}`);
    if (answer.ok && ((await answer.json()) as { message_seq: number }).message_seq > 0) return;
  }
  throw new Error('WuKongIM stores no message within a minute');
}
