import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { load, type Peer, startServer, stopServer } from './peer.ts';

interface Module {
  connect(url: string): Promise<{
    createConfirmChannel(): Promise<{
      assertQueue(name: string, options: object): Promise<{ messageCount: number }>;
      checkQueue(name: string): Promise<{ messageCount: number }>;
      publish(exchange: string, key: string, data: Buffer, options: object): boolean;
      waitForConfirms(): Promise<void>;
    }>;
    close(): Promise<void>;
  }>;
}

const port = 15672;
const queue = 'bench';
const channels = 32;

export const rabbitMq: Peer = {
  name: 'RabbitMQ',
  words:
    'A durable classic queue, persistent messages, publisher confirms: confirmed when on disk. One queue for all, since 100,000 channels cannot be queues; no sequence that a publisher sees, no once-only key. A batch is confirmed together, on one of 32 channels of its own.',
  async start() {
    const dir = await mkdtemp(join(tmpdir(), 'sendbatch-rabbitmq-'));
    const child = await startServer('/usr/lib/rabbitmq/bin/rabbitmq-server', [], port, {
      RABBITMQ_NODE_PORT: String(port),
      RABBITMQ_NODE_IP_ADDRESS: '127.0.0.1',
      RABBITMQ_NODENAME: `sendbatch-bench@localhost`,
      RABBITMQ_MNESIA_BASE: dir,
      RABBITMQ_LOG_BASE: dir,
      RABBITMQ_PID_FILE: join(dir, 'pid'),
      RABBITMQ_ENABLED_PLUGINS_FILE: join(dir, 'plugins'),
      HOME: dir,
    });
    return {
      url: `amqp://guest:guest@127.0.0.1:${port}`,
      async stop() {
        await stopServer(child);
        await rm(dir, { recursive: true });
      },
    };
  },
  async open(url, batches) {
    const { default: amqp } = await load<{ default: Module }>('amqplib');
    const connection = await amqp.connect(url);
    const free = await Promise.all(Array.from({ length: channels }, () => connection.createConfirmChannel()));
    const [first] = free;
    if (first === undefined) throw new Error('no channel');
    await first.assertQueue(queue, { durable: true });
    const waiting: (() => void)[] = [];
    return {
      async send(index) {
        while (free.length === 0) await new Promise<void>((resolve) => waiting.push(resolve));
        const channel = free.pop();
        if (channel === undefined) throw new Error('no channel');
        for (const { payload, clientMsgNo, channelId } of batches[index] ?? [])
          channel.publish('', queue, Buffer.from(payload), {
            persistent: true,
            messageId: clientMsgNo,
            headers: { channelId },
          });
        await channel.waitForConfirms();
        free.push(channel);
        waiting.shift()?.();
      },
      count: async () => (await first.checkQueue(queue)).messageCount,
      close: () => connection.close(),
    };
  },
};
