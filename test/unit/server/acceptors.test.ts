import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { test } from 'node:test';
import { openAcceptors } from '../../../src/server/acceptors.ts';

const host = '127.0.0.1';

test('several connections are accepted in one turn of the event loop, and close waits for all of them', {
  skip: process.platform === 'linux' ? false : 'other systems accept one per turn',
}, async () => {
  const count = 128;
  const server = net.createServer();
  const acceptors = await openAcceptors(server, { host, port: 0 });
  let turns = 0;
  let isWaiting = true;
  const countTurns = () => {
    turns++;
    if (isWaiting) setImmediate(countTurns);
  };
  const accepted: net.Socket[] = [];
  const { promise: all, resolve } = Promise.withResolvers<void>();
  server.on('connection', (socket) => {
    socket.resume();
    if (accepted.push(socket) === count) resolve();
  });
  const clients = Array.from({ length: count }, () => net.connect(acceptors.port, host));
  countTurns();
  await all;
  isWaiting = false;
  // Each of 64 sockets has 2 of them, on average.
  assert.ok(turns < count / 4, `${turns} turns for ${count} connections`);
  let isClosed = false;
  const closing = acceptors.close().then(() => {
    isClosed = true;
  });
  const [last, ...others] = accepted;
  await Promise.all(
    others.map(async (socket) => {
      const closed = once(socket, 'close');
      socket.destroy();
      await closed;
    }),
  );
  assert.equal(isClosed, false);
  last?.destroy();
  await closing;
  for (const client of clients) client.destroy();
});

test('an address that another server listens to is refused, also one that shares its port', async () => {
  const first = await openAcceptors(net.createServer(), { host, port: 0 });
  await assert.rejects(openAcceptors(net.createServer(), { host, port: first.port }), { code: 'EADDRINUSE' });
  await first.close();
  const plain = net.createServer().listen(first.port, host);
  await once(plain, 'listening');
  await assert.rejects(openAcceptors(net.createServer(), { host, port: first.port }), { code: 'EADDRINUSE' });
  plain.close();
});
