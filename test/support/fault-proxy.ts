import net from 'node:net';

/** A way to PostgreSQL that can be cut. */
export interface FaultProxy {
  readonly url: string;
  /** Cuts the connection that sends the next COMMIT, or the statement that commits by itself: before it arrives, or after it was done and before the answer comes back. */
  cutNextCommit(when: 'before' | 'after'): void;
  /** How many commits were cut. */
  readonly cuts: number;
  close(): Promise<void>;
}

/** Opens a proxy on loopback to the server of a URL that names a socket folder. */
export async function openFaultProxy(target: string): Promise<FaultProxy> {
  const wanted = new URL(target);
  const path = `${wanted.searchParams.get('host')}/.s.PGSQL.${wanted.port || '5432'}`;
  const sockets = new Set<net.Socket>();
  let cut: 'before' | 'after' | undefined;
  let cuts = 0;
  const server = net.createServer((client) => {
    const upstream = net.connect(path);
    const end = () => {
      client.destroy();
      upstream.destroy();
    };
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', end);
      socket.on('close', () => {
        sockets.delete(socket);
        end();
      });
    }
    let swallow = false;
    client.on('data', (chunk) => {
      if (cut !== undefined && (chunk.includes('commit') || chunk.includes('append messages'))) {
        const when = cut;
        cut = undefined;
        cuts++;
        if (when === 'before') return end();
        swallow = true;
      }
      upstream.write(chunk);
    });
    upstream.on('data', (chunk) => {
      if (swallow) end();
      else client.write(chunk);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as net.AddressInfo;
  return {
    url: `postgres://sendbatch@127.0.0.1:${port}${wanted.pathname}`,
    cutNextCommit(when) {
      cut = when;
    },
    get cuts() {
      return cuts;
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
