import assert from 'node:assert/strict';
import http2 from 'node:http2';
import net from 'node:net';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { RequestContext } from '../../../src/rpc/request-context.ts';
import { createBodyBudget } from '../../../src/server/body-budget.ts';
import { type Listener, listen } from '../../../src/server/port.ts';

const kilobyte = 1024;
/** After them a body that has not come is slow. */
const graceMs = 100;
let listener: Listener;
/** Bytes that the service has been sent of requests that have not ended. */
let came = 0;
let cuts = 0;
/** Requests that are not answered. */
let here = 0;
const heard = new Set<() => void>();
before(async () => {
  const bodyBudget = createBodyBudget({
    maxBytes: 1024 * kilobyte,
    graceMs,
    isStream: ({ request }) => request.url === '/stream',
    onEvicted: () => cuts++,
  });
  listener = await listen({
    host: '127.0.0.1',
    port: 0,
    handler: (request, response) => {
      here++;
      response.once('close', () => {
        here--;
        for (const wake of heard) wake();
      });
      const context = new RequestContext(request, { protocol: 'grpc', method: undefined, route: undefined });
      bodyBudget(context, response);
      let bytes = 0;
      request.on('error', () => {});
      request.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        came += chunk.length;
        for (const wake of heard) wake();
      });
      request.on('end', () => response.end(context.isEvicted ? 'cut' : String(bytes)));
    },
  });
});
after(() => listener.close(0));

async function untilNoneIsHere(): Promise<void> {
  while (here > 0) await new Promise<void>((resolve) => heard.add(resolve));
  heard.clear();
}

async function until(bytes: number): Promise<void> {
  while (came < bytes) await new Promise<void>((resolve) => heard.add(resolve));
  heard.clear();
}

function post(session: http2.ClientHttp2Session, path = '/'): http2.ClientHttp2Stream {
  const stream = session.request({ ':method': 'POST', ':path': path });
  stream.on('error', () => {});
  return stream;
}

async function answerOf(stream: http2.ClientHttp2Stream): Promise<string> {
  let text = '';
  for await (const chunk of stream.setEncoding('utf8')) text += chunk;
  return text;
}

test('on HTTP/1.1 the connection of a body that makes room is told so, and closed; streams do not count', async () => {
  const socket = net.connect(listener.port, '127.0.0.1');
  const said = new Promise<string>((resolve) => {
    let text = '';
    socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
    socket.on('error', () => {}).on('close', () => resolve(text));
  });
  const since = came;
  socket.write('POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n');
  socket.write(Buffer.alloc(900 * kilobyte));
  await until(since + 900 * kilobyte);
  const session = http2.connect(listener.url);
  const stream = post(session, '/stream');
  stream.end(Buffer.alloc(3000 * kilobyte));
  assert.equal(await answerOf(stream), String(3000 * kilobyte));
  await delay(2 * graceMs);
  const last = post(session);
  last.end(Buffer.alloc(700 * kilobyte));
  assert.equal(await answerOf(last), String(700 * kilobyte));
  assert.match(await said, /^HTTP\/1\.1 503 .*\r\nRetry-After: 1\r\n/);
  session.close();
});

test('over the bound the slowest body of a connection with more than its share makes room, and the others go on', async () => {
  await untilNoneIsHere();
  const before = cuts;
  const holding = http2.connect(listener.url);
  const closed: Promise<number | undefined>[] = [];
  for (let stream = 0; stream < 5; stream++) {
    const held = post(holding);
    closed.push(new Promise((resolve) => held.once('close', () => resolve(held.rstCode))));
    held.write(Buffer.alloc(200 * kilobyte));
    await until((stream + 1) * 200 * kilobyte);
  }
  assert.equal(cuts, before);
  await delay(2 * graceMs);
  // Larger than each of them, and as it comes the first of them goes.
  const session = http2.connect(listener.url);
  const batch = post(session);
  batch.end(Buffer.alloc(210 * kilobyte));
  assert.equal(await answerOf(batch), String(210 * kilobyte));
  assert.equal(await Promise.any(closed), http2.constants.NGHTTP2_REFUSED_STREAM);
  assert.ok(cuts - before >= 1 && cuts - before <= 2, `${cuts - before} were cut`);
  // Many connections with a little each: the one that sends is not the one that holds back.
  const since = cuts;
  const sessions = Array.from({ length: 10 }, () => http2.connect(listener.url));
  const many = sessions.map((each) => post(each));
  for (const each of many) {
    const came0 = came;
    each.write(Buffer.alloc(90 * kilobyte));
    await until(came0 + 90 * kilobyte);
  }
  await delay(2 * graceMs);
  const next = post(session);
  next.end(Buffer.alloc(600 * kilobyte));
  assert.equal(await answerOf(next), String(600 * kilobyte));
  assert.ok(cuts > since);
  for (const each of [holding, ...sessions]) each.destroy();
  session.close();
});
