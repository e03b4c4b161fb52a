import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Browser, Page } from 'playwright-core';
import { createKeys } from '../../src/auth/api-keys.ts';
import { launchBrowser, noBrowser } from '../support/browser.ts';
import { openStore } from '../support/database.ts';
import { startService, type TestService } from '../support/service.ts';
import { readAll } from '../support/verify.ts';

describe('the page about the API', { skip: noBrowser }, () => {
  let service: TestService;
  let strict: TestService;
  let browser: Browser;
  /** What the pages complained about, and whom they talked to. */
  const faults: string[] = [];
  const hosts = new Set<string>();
  before(async () => {
    service = await startService();
    // Its own page calls it, whatever other origins are listed.
    strict = await startService({
      databaseUrl: service.databaseUrl,
      asks: true,
      open: false,
      allowedOrigins: ['https://app.example'],
    });
    browser = await launchBrowser();
  });
  after(async () => {
    await browser?.close();
    await strict.stop();
    await service.stop();
  });
  const open = async (url: string) => {
    const page = await browser.newPage();
    page.on('pageerror', (error) => faults.push(error.message));
    page.on('console', (message) => message.type() === 'error' && faults.push(message.text()));
    page.on('request', (request) => {
      if (/^https?:/.test(request.url())) hosts.add(new URL(request.url()).host);
    });
    await page.goto(url);
    await page.waitForSelector('.opblock', { timeout: 60_000 }).catch(() => assert.fail(faults.join('\n')));
    return page;
  };
  /** Runs the first example of an operation, as a person would; the status and the body that the page shows. */
  const execute = async (page: Page, id: string): Promise<{ status: string; body: string }> => {
    const operation = page.locator(`#operations-${id}`);
    if ((await operation.locator('.execute').count()) === 0) await operation.locator('.opblock-summary').click();
    await operation.locator('.execute').click();
    const answer = operation.locator('.live-responses-table .response');
    await answer.waitFor();
    return {
      status: ((await answer.locator('.response-col_status').textContent()) ?? '').trim(),
      body: (await answer.locator('.microlight').first().textContent()) ?? '',
    };
  };

  test('lists every operation, and sends the first example of a batch', async () => {
    const page = await open(service.url);
    assert.equal(page.url(), `${service.url}/docs`);
    const document = (await (await fetch(`${service.url}/openapi.json`)).json()) as { paths: Record<string, object> };
    const operations = Object.values(document.paths).flatMap((item) => Object.keys(item));
    assert.equal(await page.locator('.opblock').count(), operations.length);
    const { status, body } = await execute(page, 'MessageService-SendBatchOrBroadcast');
    assert.equal(status, '200');
    assert.match(body, /"message_seq": 1/);
    const stored = (await readAll(service.databaseUrl)).map(({ channel, payload }) => `${channel}: ${payload}`);
    assert.deepEqual(stored, ['group123: Hello Group 1', 'group456: Hello Group 2']);
    await page.close();
  });

  test('with a credential where one is asked for', async () => {
    const db = openStore(service.databaseUrl);
    const { key } = await createKeys(db).create({ name: 'a person', scopes: ['read'] });
    await db.destroy();
    const page = await open(`${strict.url}/docs`);
    const before = faults.length;
    assert.equal((await execute(page, 'MessageService-GetServerInfo')).status, '401');
    // The browser's own line about the status.
    faults.splice(before);
    await page.locator('.btn.authorize').click();
    const scheme = page.locator('.auth-container').filter({ hasText: 'bearer' });
    await scheme.locator('input').fill(key);
    await scheme.locator('button.authorize').click();
    await page.locator('.btn-done').first().click();
    await page.locator('#operations-MessageService-GetServerInfo .btn-clear').click();
    const { status, body } = await execute(page, 'MessageService-GetServerInfo');
    assert.equal(status, '200');
    assert.match(body, /"batch_messages": 1000/);
    await page.close();
  });

  test('complains about nothing, and talks to this service alone', () => {
    assert.deepEqual(faults, []);
    assert.deepEqual([...hosts].sort(), [new URL(service.url).host, new URL(strict.url).host].sort());
  });
});
