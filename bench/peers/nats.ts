import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { load, type Peer, startServer, stopServer } from './peer.ts';

interface Transport {
  connect(options: { port: number }): Promise<{ close(): Promise<void> }>;
}
interface JetStream {
  jetstream(connection: object): { publish(subject: string, data: Uint8Array, options: object): Promise<unknown> };
  jetstreamManager(connection: object): Promise<{
    streams: {
      add(config: object): Promise<unknown>;
      info(name: string): Promise<{ state: { messages: number } }>;
    };
  }>;
}

const port = 14222;
const stream = 'bench';

export const nats: Peer = {
  name: 'NATS JetStream',
  words:
    "JetStream, file storage. Debian's 2.9 has no sync_interval (added in 2.10): it answers before the data is on disk, and syncs every two minutes, which is a weaker guarantee than the others give. One stream, one subject per channel; the sequence is the stream's. Each message is published and acknowledged by itself, those of a batch concurrently; Nats-Msg-Id detects repeats for two minutes.",
  async start() {
    const dir = await mkdtemp(join(tmpdir(), 'sendbatch-nats-'));
    const config = join(dir, 'nats.conf');
    await writeFile(config, `host: 127.0.0.1\nport: ${port}\njetstream { store_dir: "${dir}" }\n`);
    const child = await startServer('nats-server', ['-c', config], port);
    const { connect } = await load<Transport>('@nats-io/transport-node');
    const { jetstreamManager } = await load<JetStream>('@nats-io/jetstream');
    const connection = await connect({ port });
    const manager = await jetstreamManager(connection);
    await manager.streams.add({ name: stream, subjects: ['channel.*'], storage: 'file' });
    await connection.close();
    return {
      url: `nats://127.0.0.1:${port}`,
      async stop() {
        await stopServer(child);
        await rm(dir, { recursive: true });
      },
    };
  },
  async open(_, batches) {
    const { connect } = await load<Transport>('@nats-io/transport-node');
    const { jetstream, jetstreamManager } = await load<JetStream>('@nats-io/jetstream');
    const connection = await connect({ port });
    const client = jetstream(connection);
    const manager = await jetstreamManager(connection);
    const run = String(Date.now());
    return {
      async send(index) {
        await Promise.all(
          (batches[index] ?? []).map(({ channelId, clientMsgNo, payload }) =>
            client.publish(`channel.${channelId}`, payload, { msgID: `${run}-${clientMsgNo}`, timeout: 60_000 }),
          ),
        );
      },
      count: async () => (await manager.streams.info(stream)).state.messages,
      close: () => connection.close(),
    };
  },
};
