import net from 'node:net';
import { test } from 'node:test';
import { startService } from '../support/service.ts';
import { until } from '../support/watch.ts';

test('a stop ends while the connection for LISTEN is still being opened', { timeout: 120_000 }, async (context) => {
  const reached = Promise.withResolvers<net.Socket>();
  const server = net.createServer({ pauseOnConnect: true }, (socket) => {
    socket.on('error', () => {});
    reached.resolve(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as net.AddressInfo;
  const service = await startService({ listenUrl: `postgres://sendbatch@127.0.0.1:${port}/postgres` });
  const client = await reached.promise;
  const target = new URL(service.databaseUrl);
  context.after(() => server.close());

  const stopped = service.stop();
  // It reaches PostgreSQL only now. The URL's database differs, which does not matter here.
  const upstream = net.connect(`${target.searchParams.get('host')}/.s.PGSQL.5432`);
  upstream.on('error', () => client.destroy());
  client.pipe(upstream).pipe(client);
  await stopped;
  await until('nothing of it is left', () => client.destroyed || client.readableEnded || upstream.destroyed);
});
