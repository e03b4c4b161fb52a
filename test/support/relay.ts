import { once } from 'node:events';
import net from 'node:net';

/** A connection of one client to a service, which can disconnect in every way that TCP has. */
export interface Relay {
  readonly port: number;
  /** Stops reading from the service: its buffers fill. */
  hold(): void;
  /** Resumes reading. */
  release(): void;
  leave(way: Way): void;
  /** Cuts every open connection, at both ends; new ones work. */
  cut(): void;
  close(): void;
}

/** The ways in which a client disconnects. */
export const ways = ['close', 'reset', 'half-close'] as const;
type Way = (typeof ways)[number];

/** Opens a relay to a port on loopback. */
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
    cut() {
      for (const link of [...links]) {
        link.client.destroy();
        link.upstream.destroy();
        links.delete(link);
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
