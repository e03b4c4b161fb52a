// Accepts the connections of a server.
//
// libuv accepts one connection per turn of the event loop, and under load a turn takes long:
// clients wait for seconds where nobody counts them. So several sockets listen to one port
// (SO_REUSEPORT), between which Linux distributes the connections. JSON calls at 2.4 times the
// capacity, each on a connection of its own (p99 of the stored, and of the refused): one socket 16
// to 20 s (5 to 7 s), 16 sockets 7 to 9 s (7 s), 64 sockets 2.9 s (2.7 s). Workers need no more
// than one: their parent, which does nothing else, accepts.

import cluster from 'node:cluster';
import { type AddressInfo, createServer, type ListenOptions, Server } from 'node:net';

/** Sockets that listen to a port; each accepts one connection per turn of the event loop. */
const acceptorCount = 64;
/**
 * Connections that wait to be accepted, of each socket; Linux allows 4096 (`net.core.somaxconn`).
 * Node's default of 511 lost calls to ECONNRESET at twice the capacity, on connections of their
 * own.
 */
const backlog = 4096;

/** An address to listen to. `port`: 0 = any free port. */
export interface Address {
  readonly host: string;
  readonly port: number;
}

/** The sockets that listen for a server. */
export interface Acceptors {
  readonly port: number;
  /** Accepts no more; resolves when all connections are closed. */
  close(): Promise<void>;
}

/** Listens for a server at an address that nobody else listens to; rejects with Node's error. */
export async function openAcceptors(server: Server, { host, port }: Address): Promise<Acceptors> {
  const isShared = process.platform === 'linux' && !cluster.isWorker;
  if (!isShared) {
    await open(server, { host, port, backlog });
    return { port: addressOf(server).port, close: () => closed(server) };
  }
  // Sharing a port is possible with other processes of the user, too.
  await assertFree({ host, port });
  await open(server, { host, port, backlog, reusePort: true });
  const acceptors = [server];
  const close = async () => {
    await Promise.all(acceptors.map(closed));
  };
  // The address itself: a name would be resolved for each socket, and perhaps to another one.
  const { address, port: ownPort } = addressOf(server);
  const { allowHalfOpen, noDelay } = server as Server & { allowHalfOpen: boolean; noDelay: boolean };
  try {
    while (acceptors.length < acceptorCount) {
      const acceptor = createServer({ allowHalfOpen, noDelay }, (socket) => server.emit('connection', socket));
      await open(acceptor, { host: address, port: ownPort, backlog, reusePort: true });
      // A connection that could not be accepted, for lack of descriptors, is not an error of the
      // service; without a listener it would end the process.
      acceptor.on('error', () => {});
      acceptors.push(acceptor);
    }
  } catch (error) {
    await close();
    throw error;
  }
  return { port: ownPort, close };
}

/** Rejects with Node's error when another process listens at an address. */
export async function assertFree({ host, port }: Address): Promise<void> {
  if (port === 0) return;
  const server = createServer();
  await open(server, { host, port });
  await closed(server);
}

async function open(server: Server, options: ListenOptions): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once('error', reject);
  server.listen(options, () => {
    server.off('error', reject);
    resolve();
  });
  await promise;
}

async function closed(server: Server): Promise<void> {
  // http.Server.close would close idle connections immediately.
  await new Promise((resolve) => Server.prototype.close.call(server, resolve));
}

function addressOf(server: Server): AddressInfo {
  return server.address() as AddressInfo;
}
