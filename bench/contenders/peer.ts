import type { Contender, ContenderJob } from '../contender.ts';
import { messageServers, peers } from '../peers/index.ts';
import { batchesOf } from '../workload.ts';

/** Another system as a contender. Closing it verifies that it stores what it acknowledged. */
export async function openPeer({ url, workload, peer: name }: ContenderJob): Promise<Contender> {
  const peer = [...peers, ...messageServers].find((each) => each.name === name);
  if (peer === undefined) throw new Error(`no peer ${name}`);
  const batches = batchesOf(workload);
  const client = await peer.open(url, batches);
  const before = (await client.count?.()) ?? 0;
  let sent = 0;
  return {
    sends: batches.length,
    async send(index) {
      await client.send(index);
      const stored = batches[index]?.length ?? 0;
      sent += stored;
      return { stored, duplicates: 0 };
    },
    async close() {
      const held = ((await client.count?.()) ?? before + sent) - before;
      if (held !== sent) throw new Error(`${name} holds ${held} of ${sent} messages`);
      await client.close();
    },
  };
}
