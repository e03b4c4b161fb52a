import assert from 'node:assert/strict';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { jsonCaller } from '../support/json.ts';
import { samplesOf, sumOf } from '../support/metrics.ts';
import { openReader, readerNames } from '../support/readers.ts';
import { openRelay, ways } from '../support/relay.ts';
import { startService, type TestService } from '../support/service.ts';

/** Time within which a reader must be released; leaves room for pauses of the machine. */
const leaveMs = 10_000;

const pem = (name: string) => readFileSync(join(import.meta.dirname, '../support/certificates', name), 'utf8');
const tls = { key: pem('localhost-key.pem'), cert: pem('localhost-cert.pem') };

describe('a reader that disconnects', () => {
  let services: Record<'cleartext' | 'TLS', TestService>;
  before(async () => {
    const cleartext = await startService();
    services = { cleartext, TLS: await startService({ databaseUrl: cleartext.databaseUrl, tls }) };
    const call = jsonCaller(cleartext.url);
    const payload = Buffer.alloc(32 * 1024).toString('base64');
    // More data than the buffers of two loopback connections hold.
    for (let round = 0; round < 10; round++) {
      const messages = Array.from({ length: 100 }, () => ({
        channel_id: 'large',
        channel_type: 2,
        from_uid: 'u1',
        payload,
      }));
      assert.equal((await call.post('/message/sendbatch', messages)).status, 200);
    }
  });
  after(async () => {
    await services.TLS.stop();
    await services.cleartext.stop();
  });

  const readers = async (service: TestService) => sumOf(samplesOf(await service.metrics()), 'sendbatch_tail_readers');
  async function assertReleased(service: TestService): Promise<void> {
    const end = performance.now() + leaveMs;
    while ((await readers(service)) > 0) {
      assert.ok(performance.now() < end, `${await readers(service)} readers are left after ${leaveMs} ms`);
      await delay(20);
    }
  }

  for (const secure of [false, true]) {
    for (const name of readerNames) {
      for (const way of ways) {
        test(`a reader that disconnects is released at once: ${name}${secure ? ' over TLS' : ''}, ${way}`, async () => {
          const service = services[secure ? 'TLS' : 'cleartext'];
          const relay = await openRelay(Number(new URL(service.url).port));
          const url = `http${secure ? 's' : ''}://localhost:${relay.port}`;
          // One reader waits for messages; the service is writing to the other.
          const waiting = await openReader(name, { url, channelId: 'quiet', ca: tls.cert });
          const writing = await openReader(name, { url, channelId: 'large', ca: tls.cert });
          assert.equal(await readers(service), 2);
          relay.hold();
          relay.leave(way);
          await assertReleased(service);
          relay.close();
          for (const reader of [waiting, writing]) reader.close();
        });
      }
    }
  }

  test('a reader is released at once when its process is killed, on every protocol', async () => {
    const service = services.cleartext;
    const child = fork(join(import.meta.dirname, '../support/readers.ts'), [service.url, 'quiet', 'large']);
    await once(child, 'message');
    assert.equal(await readers(service), 2 * readerNames.length);
    child.kill('SIGKILL');
    await assertReleased(service);
  });
});
