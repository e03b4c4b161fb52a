import net from 'node:net';

/** The direction in which nothing is forwarded any more: to PostgreSQL, back from it, or both. */
export type Direction = 'to-server' | 'to-client' | 'both';

/** A proxy in front of PostgreSQL that injects faults. */
export interface FaultProxy {
  readonly url: string;
  /**
   * Cuts the connection that sends the next COMMIT or autocommit statement: before it arrives, or
   * after it was executed and before its answer is forwarded.
   */
  cutNextCommit(when: 'before' | 'after'): void;
  /**
   * Like `cutNextCommit`, but silently: the connection stays open and swallows everything from then
   * on.
   */
  stallNextCommit(when: 'before' | 'after'): void;
  /**
   * Holds back the next statement that appends messages, with everything that its connection sends
   * after it, until the returned function is called.
   */
  holdNextAppend(): () => void;
  /** Number of commits that were cut or stalled, and of statements that were held back. */
  readonly cuts: number;
  /** Cuts every open connection. */
  cut(): void;
  /** Delays every chunk by this time in each direction. */
  delay(milliseconds: number): void;
  /**
   * Open connections swallow one direction for good; new ones are accepted and swallow it too,
   * until `resume`.
   */
  stall(direction: Direction): void;
  /**
   * Open connections swallow everything for good, as behind a firewall that dropped its state; new
   * ones work.
   */
  forget(): void;
  /** Cuts new connections as they arrive. */
  drop(): void;
  /** Ends the delay, and lets new connections work again. */
  resume(): void;
  /** Number of connections so far. */
  readonly connections: number;
  close(): Promise<void>;
}

interface Link {
  readonly end: () => void;
  swallows: Set<'to-server' | 'to-client'>;
}

/** Opens a proxy on loopback to the server of a URL, which may name a socket folder. */
export async function openFaultProxy(target: string): Promise<FaultProxy> {
  const wanted = new URL(target);
  const folder = wanted.searchParams.get('host');
  const port = wanted.port || '5432';
  const connect = () =>
    folder === null ? net.connect(Number(port), wanted.hostname) : net.connect(`${folder}/.s.PGSQL.${port}`);
  const links = new Set<Link>();
  let next: { kind: 'cut' | 'stall'; when: 'before' | 'after' } | undefined;
  let nextHeld: Promise<void> | undefined;
  let cuts = 0;
  let connections = 0;
  let delayMs = 0;
  let stalls: Direction | undefined;
  let drops = false;

  const server = net.createServer((client) => {
    connections++;
    client.on('error', () => {});
    if (drops) {
      client.destroy();
      return;
    }
    const upstream = connect();
    const end = () => {
      client.destroy();
      upstream.destroy();
      links.delete(link);
    };
    const link: Link = { end, swallows: swallowed(stalls) };
    links.add(link);
    for (const socket of [client, upstream]) {
      socket.on('error', end);
      socket.on('close', end);
    }
    let afterCommit: 'cut' | 'stall' | undefined;
    client.on('data', (chunk) => {
      if (nextHeld !== undefined && chunk.includes('append messages')) {
        void nextHeld.then(() => client.resume());
        nextHeld = undefined;
        cuts++;
        client.pause();
        client.unshift(chunk);
        return;
      }
      if (next !== undefined && (chunk.includes('commit') || chunk.includes('append messages'))) {
        const { kind, when } = next;
        next = undefined;
        cuts++;
        if (when === 'after') afterCommit = kind;
        else if (kind === 'cut') end();
        else link.swallows = swallowed('both');
      }
      forward('to-server', chunk, upstream);
    });
    upstream.on('data', (chunk) => {
      if (afterCommit === 'cut') end();
      else if (afterCommit === 'stall') link.swallows = swallowed('both');
      forward('to-client', chunk, client);
    });
    function forward(direction: 'to-server' | 'to-client', chunk: Buffer, to: net.Socket): void {
      if (link.swallows.has(direction) || to.destroyed) return;
      if (delayMs === 0) to.write(chunk);
      else setTimeout(() => to.destroyed || to.write(chunk), delayMs);
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const here = server.address() as net.AddressInfo;
  return {
    url: `postgres://${wanted.username || 'sendbatch'}@127.0.0.1:${here.port}${wanted.pathname}`,
    cutNextCommit(when) {
      next = { kind: 'cut', when };
    },
    stallNextCommit(when) {
      next = { kind: 'stall', when };
    },
    holdNextAppend() {
      const { promise, resolve } = Promise.withResolvers<void>();
      nextHeld = promise;
      return resolve;
    },
    get cuts() {
      return cuts;
    },
    get connections() {
      return connections;
    },
    cut() {
      for (const link of links) link.end();
    },
    delay(milliseconds) {
      delayMs = milliseconds;
    },
    stall(direction) {
      stalls = direction;
      for (const link of links) link.swallows = swallowed(direction);
    },
    forget() {
      for (const link of links) link.swallows = swallowed('both');
    },
    drop() {
      drops = true;
    },
    resume() {
      delayMs = 0;
      stalls = undefined;
      drops = false;
    },
    async close() {
      for (const link of links) link.end();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function swallowed(direction: Direction | undefined): Set<'to-server' | 'to-client'> {
  if (direction === undefined) return new Set();
  return new Set(direction === 'both' ? ['to-server', 'to-client'] : [direction]);
}
