import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import http, { type IncomingHttpHeaders } from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';
import net from 'node:net';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import tls from 'node:tls';
import { connectionBounds } from '../../../src/server/connection-limits.ts';
import { type Listener, type ListenOptions, listen } from '../../../src/server/port.ts';
import { openRelay } from '../../support/relay.ts';
import { until } from '../../support/watch.ts';

const pem = (name: string) => readFileSync(join(import.meta.dirname, '../../support/certificates', name), 'utf8');
/** A key for tests only; it is public. */
const credentials = { key: pem('localhost-key.pem'), cert: pem('localhost-cert.pem') };
/**
 * Short limits, for connections that must be closed. Others get real ones: the machine may stall.
 */
const bounds = { ...connectionBounds, headersMs: 300, requestMs: 400, pingMs: 200 };

const open = new Set<Listener>();
after(async () => {
  for (const listener of open) await listener.close(0);
});

/** Answers with the protocol and the bytes of the body; `/hang` only after `release`. */
async function start(options: Partial<ListenOptions> = {}) {
  const arrived = Promise.withResolvers<void>();
  const released = Promise.withResolvers<void>();
  let hanging = 0;
  const listener = await listen({
    host: '127.0.0.1',
    port: 0,
    bounds: connectionBounds,
    handler: (request, response) => {
      const answer = () => response.end(`HTTP/${request.httpVersion} ${bytes}`);
      let bytes = 0;
      request.on('data', (chunk: Buffer) => (bytes += chunk.length));
      request.on('error', () => {});
      if (request.url === '/hang') {
        hanging++;
        if (hanging >= 2) arrived.resolve();
        released.promise.then(answer);
      } else request.on('end', answer);
    },
    ...options,
  });
  open.add(listener);
  return { listener, bothArrived: arrived.promise, release: released.resolve };
}

interface Answer {
  readonly status: number | undefined;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}
function h1(url: string, options: https.RequestOptions = {}, body = ''): Promise<Answer> {
  const client = url.startsWith('https') ? https : http;
  return new Promise((resolve, reject) => {
    const request = client.request(url, { ca: credentials.cert, method: 'POST', ...options }, (response) => {
      let text = '';
      response.on('data', (chunk) => (text += chunk));
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, body: text }));
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end(body);
  });
}
function h2(session: http2.ClientHttp2Session, path = '/', headers: http2.OutgoingHttpHeaders = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ':method': 'POST', ':path': path, ...headers });
    let text = '';
    stream.on('data', (chunk) => (text += chunk));
    let answered = false;
    stream.on('response', () => (answered = true));
    stream.on('end', () => (answered ? resolve(text) : reject(new Error('no answer'))));
    stream.on('error', reject);
    stream.on('close', () => reject(new Error(`closed with ${stream.rstCode}`)));
    stream.end('four');
  });
}
/** What a raw connection receives until it is closed. */
function raw(listener: Listener, text: string, secure = false): Promise<string> {
  return new Promise((resolve) => {
    const socket = secure
      ? tls.connect({ port: listener.port, host: '127.0.0.1', ca: credentials.cert, ALPNProtocols: ['http/1.1'] })
      : net.connect(listener.port, '127.0.0.1');
    let heard = '';
    socket.on('data', (chunk) => (heard += chunk.toString('latin1')));
    socket.on('error', () => {});
    socket.on('close', () => resolve(heard));
    socket.write(text);
  });
}
/** Begins an HTTP/2 request, stalls, and waits until the stream is closed. */
async function sendUntilCut(listener: Listener): Promise<void> {
  const session = http2.connect(listener.url);
  const stream = session.request({ ':method': 'POST', ':path': '/' });
  stream.on('error', () => {});
  stream.write('x');
  await new Promise((resolve) => stream.on('close', resolve));
  session.close();
}

describe('one cleartext port', () => {
  test('a cleartext port serves HTTP/1.1 and HTTP/2 by prior knowledge', async () => {
    const { listener } = await start();
    assert.equal((await h1(listener.url, {}, 'four')).body, 'HTTP/1.1 4');
    const session = http2.connect(listener.url);
    assert.equal(await h2(session), 'HTTP/2.0 4');
    session.close();
  });

  test('a request to upgrade to h2c is answered over HTTP/1.1', async () => {
    const { listener } = await start();
    const { body } = await h1(listener.url, {
      headers: { connection: 'Upgrade, HTTP2-Settings', upgrade: 'h2c', 'http2-settings': 'AAMAAABkAAQAAP__' },
    });
    assert.equal(body, 'HTTP/1.1 0');
  });

  test('requests and prefaces may arrive byte by byte', async () => {
    const { listener } = await start();
    for (const [text, wanted] of [
      ['POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi', /200 OK.*HTTP\/1\.1 2/s],
      ['PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', /^\0\0/],
    ] as const) {
      const heard = await new Promise<string>((resolve) => {
        const socket = net.connect(listener.port, '127.0.0.1');
        socket.setNoDelay(true);
        socket.once('data', (chunk) => {
          resolve(chunk.toString('latin1'));
          socket.destroy();
        });
        const step = (index: number) => {
          if (index < text.length) socket.write(text.slice(index, index + 1), () => setImmediate(step, index + 1));
        };
        step(0);
      });
      assert.match(heard, wanted);
    }
  });

  test('a connection that sends nothing, or its headers too slowly, is closed', async () => {
    const { listener } = await start({ bounds });
    assert.equal(await raw(listener, ''), '');
    assert.equal(await raw(listener, 'PR'), '');
    assert.match(await raw(listener, 'POST / HTTP/1.1\r\nHost: x\r\n'), /^(HTTP\/1\.1 408|$)/);
  });

  test('a body that arrives too slowly is closed on both protocols', async () => {
    const { listener } = await start({ bounds });
    assert.match(
      await raw(listener, 'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx'),
      /^(HTTP\/1\.1 408|$)/,
    );
    await sendUntilCut(listener);
  });

  test('an HTTP/2 stream whose answer continues later is left open', async () => {
    const released = Promise.withResolvers<void>();
    const { listener } = await start({
      bounds: { ...bounds, pingMs: 60_000 },
      handler: (request, response) => {
        request.resume();
        if (request.url !== '/quiet') return;
        response.write('first ');
        released.promise.then(() => response.end('last'));
      },
    });
    const quiet = http2.connect(listener.url);
    const answer = h2(quiet, '/quiet');
    // Twice the time after which a stalled stream is closed.
    for (let round = 0; round < 2; round++) await sendUntilCut(listener);
    released.resolve();
    assert.equal(await answer, 'first last');
    quiet.close();
  });

  test('a body that takes longer than the time limit of a request is accepted when it arrives fast enough', async () => {
    // Longer than a busy machine stalls: each piece has this long.
    const requestMs = 1500;
    const { promise, resolve } = Promise.withResolvers<number>();
    const { listener } = await start({
      bounds: { ...connectionBounds, requestMs, requestBytes: 1024 },
      handler: async (request, response) => {
        let bytes = 0;
        for await (const chunk of request) bytes += (chunk as Buffer).length;
        response.end();
        resolve(bytes);
      },
    });
    const { hostname, port } = new URL(listener.url);
    const upload = http.request({ hostname, port, method: 'POST' });
    const began = performance.now();
    const answered = once(upload, 'response');
    let sent = 0;
    while (performance.now() - began < 3 * requestMs) {
      upload.write(Buffer.alloc(1024));
      sent += 1024;
      await delay(20);
    }
    upload.end();
    const [response] = (await answered) as [http.IncomingMessage];
    assert.equal(response.statusCode, 200);
    response.resume();
    assert.equal(await promise, sent);
  });

  test('a client that does not read its answer is disconnected on both protocols', async () => {
    let closed = 0;
    const { listener } = await start({
      bounds,
      handler: (request, response) => {
        request.resume();
        response.on('close', () => closed++);
        response.end(Buffer.alloc(32 * 1024 * 1024));
      },
    });
    const socket = net.connect(listener.port, '127.0.0.1');
    socket.pause();
    const cut = new Promise((resolve) => socket.on('error', resolve).on('close', resolve));
    socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
    const session = http2.connect(listener.url);
    session.on('error', () => {});
    const stream = session.request({ ':path': '/' });
    stream.on('error', () => {});
    await until('both are closed', () => closed === 2);
    // Reads what arrived before the close.
    socket.resume();
    await cut;
    session.destroy();
  });

  test('other protocols and floods of headers are refused', async () => {
    const { listener } = await start();
    assert.match(await raw(listener, '\x16\x03\x01garbage\r\n\r\n'), /^HTTP\/1\.1 400/);
    assert.match(
      await raw(listener, `POST / HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(40_000)}\r\n\r\n`),
      /^HTTP\/1\.1 431/,
    );
    const session = http2.connect(listener.url);
    session.on('error', () => {});
    const many = Object.fromEntries(Array.from({ length: 2000 }, (_, index) => [`x-${index}`, 'x'.repeat(50)]));
    await assert.rejects(h2(session, '/', many));
    session.destroy();
    assert.equal((await h1(listener.url)).status, 200);
  });

  test('clients that disconnect amid a request do no harm', async () => {
    const { listener } = await start();
    for (let round = 0; round < 20; round++) {
      const socket = net.connect(listener.port, '127.0.0.1');
      await new Promise((resolve) => socket.once('connect', resolve));
      socket.write('POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\npart');
      socket.resetAndDestroy();
      const session = http2.connect(listener.url);
      session.on('error', () => {});
      session
        .request({ ':method': 'POST', ':path': '/hang' })
        .on('error', () => {})
        .end();
      await new Promise((resolve) => session.once('remoteSettings', resolve));
      session.destroy();
    }
    assert.equal((await h1(listener.url)).status, 200);
  });

  test('an HTTP/2 connection whose peer answers no ping is closed', async () => {
    const { listener } = await start({ bounds });
    // A preface and empty settings, then nothing: pings are not acknowledged.
    assert.match(await raw(listener, 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0'), /^\0\0/);
  });

  test('a defect of the handler ends its request and no other, on both protocols and on a stream', async () => {
    const defects: unknown[] = [];
    const { promise: waits, resolve: answerWaiting } = Promise.withResolvers<void>();
    const { listener } = await start({
      handler(request, response) {
        const { url: path } = request;
        if (path === '/throws') throw new Error('thrown');
        if (path === '/rejects') return Promise.reject(new Error('rejected'));
        if (path !== '/waits') return undefined;
        return waits.then(() => response.end('answered'));
      },
      takesStream: (headers) => headers['x-stream'] === '1',
      onDefect: (error, { method, url }) => defects.push(`${method} ${url}: ${(error as Error).message}`),
    });
    const session = http2.connect(listener.url);
    const waiting = [h1(`${listener.url}/waits`), h2(session, '/waits')];
    const expected: string[] = [];
    for (const [path, why] of [
      ['/throws', 'thrown'],
      ['/rejects', 'rejected'],
    ] as const) {
      await assert.rejects(h1(listener.url + path));
      for (const stream of ['0', '1'])
        await assert.rejects(h2(session, path, { 'x-stream': stream }), /NGHTTP2_INTERNAL_ERROR|closed with 2/);
      expected.push(...Array.from({ length: 3 }, () => `POST ${path}: ${why}`));
    }
    assert.deepEqual(defects, expected);
    answerWaiting();
    for (const answer of await Promise.all(waiting))
      assert.equal(typeof answer === 'string' ? answer : answer.body, 'answered');
    session.close();
  });

  test('the number of connections is limited', async () => {
    const { listener } = await start({ bounds: { ...connectionBounds, connections: 2 } });
    const held = [net.connect(listener.port, '127.0.0.1'), net.connect(listener.port, '127.0.0.1')];
    await Promise.all(held.map((socket) => new Promise((resolve) => socket.once('connect', resolve))));
    assert.equal(await raw(listener, ''), '');
    for (const socket of held) socket.destroy();
  });
});

describe('closing', () => {
  test('close lets calls in flight finish on both protocols, and frees the port', async () => {
    const { listener, bothArrived, release } = await start();
    const agent = new http.Agent({ keepAlive: true });
    assert.equal((await h1(listener.url, { agent })).headers.connection, 'keep-alive');
    const idle = http2.connect(listener.url);
    assert.equal(await h2(idle), 'HTTP/2.0 4');
    const session = http2.connect(listener.url);
    const calls = Promise.all([h1(`${listener.url}/hang`), h2(session, '/hang')]);
    await bothArrived;
    const closed = listener.close(60_000);
    await assert.rejects(h1(listener.url), /ECONNREFUSED/);
    release();
    const [first, second] = await calls;
    assert.deepEqual([first.body, first.headers.connection, second], ['HTTP/1.1 0', 'close', 'HTTP/2.0 4']);
    assert.deepEqual(await closed, { forced: 0 });
    const next = await start({ port: listener.port });
    assert.equal(next.listener.port, listener.port);
  });

  test('close announces itself to HTTP/2 clients and serves what they send until they know', async () => {
    const { listener } = await start();
    const relay = await openRelay(listener.port);
    const session = http2.connect(`http://127.0.0.1:${relay.port}`);
    const notices: number[] = [];
    session.on('goaway', (_code, last) => notices.push(last));
    assert.equal(await h2(session), 'HTTP/2.0 4');
    // The relay holds the notice back, so the client still sends a second request.
    relay.hold();
    const closed = listener.close(60_000);
    const second = h2(session);
    // Sent to the service before the client reads the notice.
    await new Promise((resolve) => session.ping(resolve) && relay.release());
    assert.equal(await second, 'HTTP/2.0 4');
    assert.deepEqual(await closed, { forced: 0 });
    assert.deepEqual([...new Set(notices)], [2 ** 31 - 1, 3]);
    relay.close();
  });

  test('close serves one more request on a kept-alive connection, whose answer ends it', async () => {
    for (const tls of [undefined, credentials]) {
      const { listener } = await start(tls === undefined ? {} : { tls });
      const agent = new (tls === undefined ? http : https).Agent({ keepAlive: true, maxSockets: 1 });
      assert.equal((await h1(listener.url, { agent })).headers.connection, 'keep-alive');
      const closed = listener.close(60_000);
      const last = await h1(listener.url, { agent });
      assert.deepEqual([last.status, last.headers.connection], [200, 'close']);
      await assert.rejects(h1(listener.url, { agent }), /ECONNREFUSED/);
      assert.deepEqual(await closed, { forced: 0 });
    }
  });

  test('close processes one of two requests that a kept-alive connection pipelines', async () => {
    const seen: (string | undefined)[] = [];
    const { listener } = await start({
      handler: (request, response) => {
        seen.push(request.url);
        request.resume();
        response.end(request.url ?? '');
      },
    });
    const socket = net.connect(listener.port, '127.0.0.1');
    let heard = '';
    socket.setEncoding('utf8').on('data', (text: string) => (heard += text));
    const ended = once(
      socket.on('error', () => {}),
      'close',
    );
    const get = (path: string) => `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`;
    socket.write(get('/first'));
    await until('the first answer', () => heard.endsWith('/first'));
    const closed = listener.close(60_000);
    socket.write(get('/second') + get('/third'));
    await ended;
    assert.ok(!seen.includes('/third'), String(seen));
    assert.equal(heard.endsWith('/second'), seen.includes('/second'));
    assert.deepEqual(await closed, { forced: 0 });
  });

  test('close ends what does not finish within the grace time, and returns how many connections', async () => {
    const { listener, bothArrived } = await start();
    const session = http2.connect(listener.url);
    session.on('error', () => {});
    const calls = [h1(`${listener.url}/hang`), h2(session, '/hang')];
    await bothArrived;
    const both = Promise.allSettled(calls);
    assert.deepEqual(await listener.close(100), { forced: 2 });
    assert.deepEqual(
      (await both).map((each) => each.status),
      ['rejected', 'rejected'],
    );
    assert.deepEqual(await listener.close(100), { forced: 2 }, 'a second close returns the result of the first');
  });
});

describe('TLS', () => {
  test('a TLS port serves both protocols by ALPN', async () => {
    const { listener } = await start({ tls: credentials });
    assert.match(listener.url, /^https:/);
    assert.equal((await h1(listener.url, {}, 'four')).body, 'HTTP/1.1 4');
    const session = http2.connect(listener.url, { ca: credentials.cert });
    assert.equal(await h2(session), 'HTTP/2.0 4');
    session.close();
    assert.deepEqual(await listener.close(60_000), { forced: 0 });
  });

  test('slow headers and silent connections are closed over TLS too', async () => {
    const { listener } = await start({ tls: credentials, bounds });
    assert.match(await raw(listener, 'POST / HTTP/1.1\r\nHost: x\r\n', true), /^(HTTP\/1\.1 408|$)/);
    assert.equal(await raw(listener, ''), '');
  });
});

describe('a port that cannot be opened', () => {
  test('a port that cannot be opened is an error of one line', async () => {
    const { listener } = await start();
    await assert.rejects(start({ port: listener.port }), {
      message: `127.0.0.1:${listener.port} is in use: stop what listens there, or set PORT to another port`,
    });
    await assert.rejects(start({ host: '192.0.2.1' }), /HOST=192\.0\.2\.1 is not an address of this machine/);
  });
});
