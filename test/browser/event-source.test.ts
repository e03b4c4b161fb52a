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

  test('an EventSource sees each message and change once and in order over a restart of the service', async () => {
    const call = jsonCaller(keeper.url);
    const send = async (text: string) => {
      const message = { channel_id: 'changing', channel_type: 2, from_uid: 'u1', payload: btoa(text) };
      assert.equal((await call.post('/message/send', message)).status, 200);
    };
    const edit = (seq: number, text: string) =>
      call.post(`/v1/channels/2/changing/messages/${seq}:edit`, { payload: btoa(text) });
    const recall = (seq: number) => call.post('/v1/channels/2/changing/messages:recall', { message_seqs: [seq] });
    const restarted = await startService({ databaseUrl: keeper.databaseUrl });
    let again: TestService | undefined;
    const own = await browser.newPage();
    try {
      await send('one');
      await own.goto(`${restarted.url}/livez`);
      await own.evaluate(() => {
        const source = new EventSource('/v1/channels/2/changing/events?after_seq=0.0');
        const seen: string[] = [];
        Object.assign(globalThis, { source, seen });
        for (const name of ['message', 'changed'])
          source.addEventListener(name, (event) => {
            const { data, lastEventId } = event as MessageEvent;
            const told = JSON.parse(data);
            const { message_seq: seq, payload } = name === 'changed' ? told.message : told;
            seen.push(`${lastEventId} ${name} ${seq} ${atob(payload)}`);
          });
      });
      const waitFor = (count: number) =>
        own.waitForFunction(`seen.length === ${count}`, undefined, { timeout: 60_000 });
      await waitFor(1);
      await edit(1, 'first');
      await waitFor(2);
      const port = Number(new URL(restarted.url).port);
      await restarted.stop();
      await send('two');
      await recall(1);
      await edit(2, 'second');
      again = await startService({ databaseUrl: keeper.databaseUrl, port });
      await waitFor(5);
      await recall(2);
      await waitFor(6);
      assert.deepEqual(await own.evaluate('seen'), [
        '1.0 message 1 one',
        '1.1 changed 1 first',
        '2.1 message 2 second',
        '2.2 changed 1 ',
        '2.3 changed 2 second',
        '2.4 changed 2 ',
      ]);
      await own.evaluate('source.close()');
    } finally {
      await own.close();
      await again?.stop();
      await restarted.stop();
    }
  });
});
