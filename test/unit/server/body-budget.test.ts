import assert from 'node:assert/strict';
import http2 from 'node:http2';
import net from 'node:net';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { RequestContext } from '../../../src/rpc/request-context.ts';
import { createBodyBudget } from '../../../src/server/body-budget.ts';
import { type Listener, listen } from '../../../src/server/port.ts';

const kilobyte = 1024;
/** Age at which an unfinished body counts as slow. */
const graceMs = 100;
let listener: Listener;
/** Bytes received. */
let received = 0;
let evictions = 0;
/** Unanswered requests. */
let open = 0;
const wakers = new Set<() => void>();
before(async () => {
  const bodyBudget = createBodyBudget({
    maxBytes: 1024 * kilobyte,
    graceMs,
    isStream: ({ request }) => request.url === '/stream',
    onEvicted: () => evictions++,
  });
  listener = await listen({
    host: '127.0.0.1',
    port: 0,
    handler: (request, response) => {
      open++;
      response.once('close', () => {
        open--;
        for (const wake of wakers) wake();
      });
      const context = new RequestContext(request, { protocol: 'grpc', method: undefined, route: undefined });
      bodyBudget(context, response);
      let bytes = 0;
      request.on('error', () => {});
      request.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        received += chunk.length;
        for (const wake of wakers) wake();
      });
      request.on('end', () => response.end(context.isEvicted ? 'cut' : String(bytes)));
    },
  });
});
after(() => listener.close(0));

async function untilNoneIsOpen(): Promise<void> {
  while (open > 0) await new Promise<void>((resolve) => wakers.add(resolve));
  wakers.clear();
}

async function until(bytes: number): Promise<void> {
  while (received < bytes) await new Promise<void>((resolve) => wakers.add(resolve));
  wakers.clear();
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

test('an evicted HTTP/1.1 body is answered 503 and its connection closed, and streams do not count', async () => {
  const socket = net.connect(listener.port, '127.0.0.1');
  const answered = new Promise<string>((resolve) => {
    let text = '';
    socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
    socket.on('error', () => {}).on('close', () => resolve(text));
  });
  const since = received;
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
  const [head = '', body = ''] = (await answered).split('\r\n\r\n');
  assert.match(head, /^HTTP\/1\.1 503 Service Unavailable\r\n/);
  assert.match(head, /\r\nretry-after: 1\r\n/);
  assert.equal(/\r\ncontent-length: (\d+)/.exec(head)?.[1], String(Buffer.byteLength(body)));
  const { error } = JSON.parse(body);
  assert.equal(error.details[0].reason, 'OVERLOADED');
  assert.match(error.message, /reached 1048576 bytes; nothing was stored: retry .* with smaller batches/);
  session.close();
});

test('above the bound the slowest body of a connection with more than its share is evicted, and the others continue', async () => {
  await untilNoneIsOpen();
  const before = evictions;
  const holding = http2.connect(listener.url);
  const closed: Promise<number | undefined>[] = [];
  for (let stream = 0; stream < 5; stream++) {
    const held = post(holding);
    closed.push(new Promise((resolve) => held.once('close', () => resolve(held.rstCode))));
    held.write(Buffer.alloc(200 * kilobyte));
    await until((stream + 1) * 200 * kilobyte);
  }
  assert.equal(evictions, before);
  await delay(2 * graceMs);
  // Larger than each held body: the first of them is evicted while it arrives.
  const session = http2.connect(listener.url);
  const batch = post(session);
  batch.end(Buffer.alloc(210 * kilobyte));
  assert.equal(await answerOf(batch), String(210 * kilobyte));
  assert.equal(await Promise.any(closed), http2.constants.NGHTTP2_REFUSED_STREAM);
  assert.ok(evictions - before >= 1 && evictions - before <= 2, `${evictions - before} were evicted`);
  // Many connections that hold little each: the sending one is not evicted.
  const since = evictions;
  const sessions = Array.from({ length: 10 }, () => http2.connect(listener.url));
  const many = sessions.map((each) => post(each));
  for (const each of many) {
    const receivedBefore = received;
    each.write(Buffer.alloc(90 * kilobyte));
    await until(receivedBefore + 90 * kilobyte);
  }
  await delay(2 * graceMs);
  const next = post(session);
  next.end(Buffer.alloc(600 * kilobyte));
  assert.equal(await answerOf(next), String(600 * kilobyte));
  assert.ok(evictions > since);
  for (const each of [holding, ...sessions]) each.destroy();
  session.close();
});

test('bytes that arrive while the caller is identified are counted once, on a stream and on a request', async (context) => {
  const bytes = 700 * kilobyte;
  for (const takesStream of [() => true, () => false]) {
    let evicted = 0;
    const bodyBudget = createBodyBudget({
      maxBytes: bytes + 200 * kilobyte,
      graceMs,
      isStream: () => false,
      onEvicted: () => evicted++,
    });
    const own = await listen({
      host: '127.0.0.1',
      port: 0,
      takesStream,
      async handler(request, response) {
        const call = new RequestContext(request, { protocol: 'grpc', method: undefined, route: undefined });
        const { stream } = request as unknown as { stream: http2.ServerHttp2Stream };
        while (stream.readableLength < bytes) await delay(1);
        bodyBudget(call, response);
        if (request.push === undefined) stream.on('data', (chunk: Buffer) => call.takesChunk(chunk));
        else request.resume();
        stream.once('end', () => stream.respond({}, { endStream: true }));
      },
    });
    context.after(() => own.close(0));
    const session = http2.connect(own.url);
    context.after(() => session.destroy());
    const sending = post(session);
    sending.end(Buffer.alloc(bytes));
    await new Promise((resolve) => sending.once('close', resolve).resume());
    assert.deepEqual([evicted, sending.rstCode], [0, 0]);
  }
});
