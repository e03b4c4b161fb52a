import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Browser } from 'playwright-core';
import { launchBrowser, noBrowser } from '../support/browser.ts';
import { jsonCaller } from '../support/json.ts';
import { type PageServer, servePages } from '../support/page-server.ts';
import { startService, type TestService } from '../support/service.ts';
import { patienceMs } from '../support/watch.ts';

const path = '/examples/browser-connect-web/';

describe('examples/browser-connect-web', { skip: noBrowser }, () => {
  /** Owns the database while the other instance restarts. */
  let keeper: TestService;
  let service: TestService;
  let pages: PageServer;
  let browser: Browser;
  before(async () => {
    keeper = await startService({ systemUids: ['system'] });
    service = await startService({ databaseUrl: keeper.databaseUrl, systemUids: ['system'] });
    pages = await servePages({
      [path]: readFileSync(join(import.meta.dirname, '../..', path, 'index.html'), 'utf8'),
    });
    browser = await launchBrowser();
  });
  after(async () => {
    await browser?.close();
    pages.close();
    await service.stop();
    await keeper.stop();
  });

  test('the browser example sends, shows messages as they arrive, and keeps following across a restart of the service', async () => {
    const page = await browser.newPage();
    page.setDefaultTimeout(patienceMs);
    const errors: string[] = [];
    page.on('pageerror', (error) => errors.push(error.message));
    await page.goto(`${pages.url}${path}?service=${encodeURIComponent(service.url)}`);
    const shows = async (texts: string[]) => {
      await page
        .locator(`li:nth-child(${texts.length})`)
        .waitFor()
        .catch(() => assert.fail(errors.join('\n')));
      assert.deepEqual(await page.locator('li').allTextContents(), texts);
    };
    await page.fill('input', 'from the page');
    await page.click('button');
    await page.locator('p', { hasText: 'stored as 1' }).waitFor();
    await shows(['from the page']);

    const { databaseUrl, url } = service;
    await service.stop();
    const other = (text: string) => ({
      from_uid: 'system',
      channel_id: 'browser',
      channel_type: 2,
      payload: Buffer.from(text).toString('base64'),
    });
    await jsonCaller(keeper.url).post('/message/send', other('while the service was away'));
    service = await startService({ databaseUrl, systemUids: ['system'], port: Number(new URL(url).port) });
    await shows(['from the page', 'while the service was away']);
    assert.deepEqual(errors, []);
    await page.close();
  });
});
