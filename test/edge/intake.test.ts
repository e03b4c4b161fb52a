import assert from 'node:assert/strict';
import http2 from 'node:http2';
import net from 'node:net';
import { after, before, test } from 'node:test';
import { createIntake, wasCut } from '../../src/edge/intake.ts';
import { type Listener, listen } from '../../src/edge/listen.ts';

const kilobyte = 1024;
let listener: Listener;
/** Bytes that the service has been sent of requests that have not ended. */
let came = 0;
let cuts = 0;
const heard = new Set<() => void>();
before(async () => {
  const intake = createIntake({
    mostBytes: 1024 * kilobyte,
    isStream: ({ url }) => url === '/stream',
    onCut: () => cuts++,
  });
  listener = await listen({
    host: '127.0.0.1',
    port: 0,
    handler: (request, response) => {
      intake(request, response);
      let bytes = 0;
      request.on('error', () => {});
      request.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        came += chunk.length;
        for (const wake of heard) wake();
      });
      request.on('end', () => response.end(wasCut(request) ? 'cut' : String(bytes)));
    },
  });
});
after(() => listener.close(0));

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

test('over the bound the largest body that is still coming makes room, and the others go on', async () => {
  const session = http2.connect(listener.url);
  const socket = net.connect(listener.port, '127.0.0.1');
  const said = new Promise<string>((resolve) => {
    let text = '';
    socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
    socket.on('error', () => {}).on('close', () => resolve(text));
  });
  const small = post(session);
  small.write(Buffer.alloc(100 * kilobyte));
  await until(100 * kilobyte);
  const largest = post(session);
  const closed = new Promise((resolve) => largest.once('close', () => resolve(largest.rstCode)));
  largest.write(Buffer.alloc(500 * kilobyte));
  await until(600 * kilobyte);
  socket.write('POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n');
  socket.write(Buffer.alloc(400 * kilobyte));
  await until(1000 * kilobyte);
  assert.equal(cuts, 0);
  small.write(Buffer.alloc(100 * kilobyte));
  assert.equal(await closed, http2.constants.NGHTTP2_REFUSED_STREAM);
  assert.equal(cuts, 1);
  const next = post(session);
  next.end(Buffer.alloc(300 * kilobyte));
  assert.equal(await answerOf(next), String(300 * kilobyte));
  // What was answered, or cut, counts no longer: now the one on HTTP/1.1 is the largest.
  const second = post(session);
  second.write(Buffer.alloc(350 * kilobyte));
  await until(1750 * kilobyte);
  small.end(Buffer.alloc(150 * kilobyte));
  assert.equal(await answerOf(small), String(350 * kilobyte));
  assert.equal(cuts, 2);
  second.end();
  assert.equal(await answerOf(second), String(350 * kilobyte));
  const last = post(session);
  last.end(Buffer.alloc(700 * kilobyte));
  assert.match(await said, /^HTTP\/1\.1 503 .*\r\nRetry-After: 1\r\n/);
  assert.equal(await answerOf(last), String(700 * kilobyte));
  const stream = post(session, '/stream');
  stream.end(Buffer.alloc(3000 * kilobyte));
  assert.equal(await answerOf(stream), String(3000 * kilobyte));
  session.close();
});
