import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Browser, Page } from 'playwright-core';
import { launchBrowser, noBrowser } from '../support/browser.ts';
import { type FaultProxy, openFaultProxy } from '../support/fault-proxy.ts';
import { jsonCaller } from '../support/json.ts';
import { startService, type TestService } from '../support/service.ts';

const payload = Buffer.from('x').toString('base64');

describe('the browser’s EventSource', { skip: noBrowser }, () => {
  /** Owns the database. */
  let keeper: TestService;
  let proxy: FaultProxy;
  let service: TestService;
  let browser: Browser;
  let page: Page;
  before(async () => {
    keeper = await startService();
    proxy = await openFaultProxy(keeper.databaseUrl);
    service = await startService({ databaseUrl: proxy.url, statementTimeoutMs: 500, lockTimeoutMs: 500 });
    browser = await launchBrowser();
    page = await browser.newPage();
    await page.goto(`${service.url}/livez`);
  });
  after(async () => {
    await browser?.close();
    await service.stop();
    await proxy.close();
    await keeper.stop();
  });

  test('an EventSource that was refused while the database was down reconnects by itself', async () => {
    const send = async () => {
      const message = { channel_id: 'away', channel_type: 2, from_uid: 'u1', payload };
      assert.equal((await jsonCaller(keeper.url).post('/message/send', message)).status, 200);
    };
    await send();
    proxy.drop();
    proxy.cut();
    const refused = await page.evaluate(async () => {
      const source = new EventSource('/v1/channels/2/away/events');
      const seen: string[] = [];
      Object.assign(globalThis, { source, seen });
      source.addEventListener('message', (event) => seen.push(event.lastEventId));
      // The event with this name carries the reason; the browser's own error event, at the end of
      // the stream, has no data.
      return await new Promise((resolve) =>
        source.addEventListener('error', (event) => 'data' in event && resolve(event.data)),
      );
    });
    assert.match(String(refused), /STORE_BUSY/);
    proxy.resume();
    await page.waitForFunction('seen.length === 1', undefined, { timeout: 60_000 });
    await send();
    await page.waitForFunction('seen.length === 2', undefined, { timeout: 60_000 });
    assert.deepEqual(await page.evaluate('[...seen, source.readyState]'), ['1.0', '2.0', 1]);
    await page.evaluate('source.close()');
  });
});
