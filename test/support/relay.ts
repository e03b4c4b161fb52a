import { once } from 'node:events';
import net from 'node:net';

/** A way to a service for one client, which can leave by it in any way that TCP has. */
export interface Relay {
  readonly port: number;
  /** Stops to read from the service: its buffers fill. */
  hold(): void;
  /** Reads on. */
  release(): void;
  leave(way: Way): void;
  close(): void;
}

/** How a client leaves. */
export const ways = ['close', 'reset', 'half-close'] as const;
type Way = (typeof ways)[number];

/** Opens a way to a port of loopback. */
export async function openRelay(target: number): Promise<Relay> {
  const links = new Set<{ client: net.Socket; upstream: net.Socket }>();
  const server = net.createServer({ allowHalfOpen: true }, (client) => {
    const upstream = net.connect({ port: target, host: '127.0.0.1', allowHalfOpen: true });
    links.add({ client, upstream });
    for (const socket of [client, upstream]) socket.on('error', () => {});
    client.on('data', (chunk) => upstream.write(chunk)).on('end', () => upstream.end());
    upstream.on('data', (chunk) => client.write(chunk)).on('end', () => client.end());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as net.AddressInfo).port,
    hold() {
      for (const { upstream } of links) upstream.pause();
    },
    release() {
      for (const { upstream } of links) upstream.resume();
    },
    leave(way) {
      for (const { upstream } of links) {
        if (way === 'close') upstream.destroy();
        else if (way === 'reset') upstream.resetAndDestroy();
        else upstream.end();
      }
    },
    close() {
      for (const { client, upstream } of links) {
        client.destroy();
        upstream.destroy();
      }
      server.close();
    },
  };
}
