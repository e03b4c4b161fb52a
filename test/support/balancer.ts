import net from 'node:net';

/** One address in front of several instances, like a load balancer of connections. */
export interface Balancer {
  readonly url: string;
  /**
   * Puts an instance, by its URL, into a slot; connections of the former one stay until it ends
   * them.
   */
  set(place: number, url: string): void;
  close(): Promise<void>;
}

/**
 * Distributes connections in turn; where one is refused, the next instance gets it. It does not
 * know which instance is about to stop.
 */
export async function openBalancer(): Promise<Balancer> {
  const ports: number[] = [];
  const sockets = new Set<net.Socket>();
  let next = 0;
  const server = net.createServer({ allowHalfOpen: true }, (client) => {
    keep(client);
    const first = next++;
    const reach = (tries: number) => {
      const upstream = net.connect({
        port: ports[(first + tries) % ports.length] ?? 0,
        host: '127.0.0.1',
        allowHalfOpen: true,
      });
      keep(upstream);
      const refused = () => {
        upstream.destroy();
        if (tries + 1 < ports.length) reach(tries + 1);
        else client.destroy();
      };
      upstream.once('error', refused);
      upstream.once('connect', () => {
        upstream.off('error', refused);
        for (const [from, to] of [
          [client, upstream],
          [upstream, client],
        ] as const) {
          from.pipe(to);
          from.once('close', () => to.destroySoon());
        }
      });
    };
    reach(0);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as net.AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    set(place, url) {
      ports[place] = Number(new URL(url).port);
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };

  function keep(socket: net.Socket): void {
    sockets.add(socket);
    socket.on('error', () => socket.destroy());
    socket.once('close', () => sockets.delete(socket));
  }
}
