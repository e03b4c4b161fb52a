import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Browser, Page } from 'playwright-core';
import { createKeys } from '../../src/auth/api-keys.ts';
import { launchBrowser, noBrowser } from '../support/browser.ts';
import { openStore } from '../support/database.ts';
import { startService, type TestService } from '../support/service.ts';
import { readAll } from '../support/verify.ts';
import { patienceMs } from '../support/watch.ts';

describe('the page about the API at /docs', { skip: noBrowser }, () => {
  let service: TestService;
  let strict: TestService;
  let browser: Browser;
  /** The errors of the pages, and the hosts that they requested. */
  const faults: string[] = [];
  const hosts = new Set<string>();
  before(async () => {
    service = await startService();
    // The service's own page may call it, whatever other origins are listed.
    strict = await startService({
      databaseUrl: service.databaseUrl,
      requiresCredential: true,
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
  const open = async (url: string, options: Parameters<Browser['newPage']>[0] = {}) => {
    const page = await browser.newPage(options);
    page.setDefaultTimeout(patienceMs);
    page.on('pageerror', (error) => faults.push(error.message));
    page.on('console', (message) => message.type() === 'error' && faults.push(message.text()));
    page.on('request', (request) => {
      if (/^https?:/.test(request.url())) hosts.add(new URL(request.url()).host);
    });
    await page.goto(url);
    await page.waitForSelector('.opblock', { timeout: patienceMs }).catch(() => assert.fail(faults.join('\n')));
    return page;
  };
  /** The paths of the shown operations; the page inserts zero-width spaces where they may break. */
  const pathsOn = async (page: Page) =>
    (await page.locator('.opblock-summary-path').allTextContents()).map((path) => path.replaceAll('\u200b', ''));
  /** Opens an operation and presses Execute, which shows the confirmation dialog. */
  const ask = async (page: Page, id: string) => {
    const operation = page.locator(`#operations-${id}`);
    if ((await operation.locator('.execute').count()) === 0) await operation.locator('.opblock-summary').click();
    await operation.locator('.execute').click();
    await page.locator('dialog').waitFor();
    return operation;
  };
  /**
   * Runs the first example of an operation as a user would; returns the status and the body that
   * the page shows.
   */
  const execute = async (page: Page, id: string): Promise<{ status: string; body: string }> => {
    const operation = await ask(page, id);
    await page.locator('dialog button', { hasText: 'Send' }).click();
    const answer = operation.locator('.live-responses-table .response');
    await answer.waitFor();
    return {
      status: ((await answer.locator('.response-col_status').textContent()) ?? '').trim(),
      body: (await answer.locator('.microlight').first().textContent()) ?? '',
    };
  };

  test('the docs page lists every operation and sends the first example of a batch', async () => {
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

  test('the docs page sends a credential when the service requires one', async () => {
    const db = openStore(service.databaseUrl);
    const { key } = await createKeys(db).create({ name: 'a person', scopes: ['read'] });
    await db.destroy();
    const page = await open(`${strict.url}/docs`);
    const before = faults.length;
    assert.equal((await execute(page, 'MessageService-GetServerInfo')).status, '401');
    // The browser's own console line about the status.
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

  test('the docs page asks before it sends: the dialog names method, URL and purpose, and Cancel sends nothing', async () => {
    const page = await open(`${service.url}/docs`);
    const calls: string[] = [];
    page.on('request', (request) => request.method() === 'POST' && calls.push(new URL(request.url()).pathname));
    const operation = await ask(page, 'MessageService-Send');
    const said = await page.locator('dialog').locator('h2, p, code').allTextContents();
    assert.deepEqual(said, ['Send this call?', 'Sends one message.', `POST ${service.url}/message/send`]);
    assert.equal(await page.evaluate('document.activeElement.textContent'), 'Cancel');
    for (const cancel of [
      () => page.locator('dialog button', { hasText: 'Cancel' }).click(),
      () => page.keyboard.press('Escape'),
    ]) {
      await cancel();
      await operation.getByText('the call was cancelled, nothing was sent').waitFor();
      await operation.locator('.btn-clear').click();
      await ask(page, 'MessageService-Send');
    }
    await page.keyboard.press('Escape');
    await operation.locator('.btn-clear').click();
    assert.deepEqual(calls, []);
    assert.equal((await execute(page, 'MessageService-Send')).status, '200');
    assert.deepEqual(calls, ['/message/send']);
    await page.close();
  });

  test('the search of the docs page finds operations by path, summary, method and service', async () => {
    const page = await open(`${service.url}/docs`);
    const all = await page.locator('.opblock').count();
    const search = async (phrase: string) => {
      await page.getByRole('searchbox').fill(phrase);
      const found = await pathsOn(page);
      const count = await page.locator('.search [role=status]').textContent();
      assert.equal(count, found.length === 1 ? '1 operation' : `${found.length} operations`);
      return found;
    };
    assert.deepEqual(await search('/V1/batches/{batch_id}:'), [
      '/v1/batches/{batch_id}:cancel',
      '/v1/batches/{batch_id}:recall',
      '/v1/batches/{batch_id}:retry',
      '/v1/batches/{batch_id}:resume',
    ]);
    assert.deepEqual(await search('delete webhook'), ['/v1/webhooks/{name}']);
    assert.ok((await search('tails a channel')).includes('/v1/channels/{channel_type}/{channel_id}/events'));
    assert.ok((await search('ModerationService')).every((path) => path.startsWith('/v1/moderation/')));
    assert.deepEqual(await search('no such thing'), []);
    assert.equal((await search('')).length, all);
    await page.close();
  });

  test('in every width and color scheme, the first route is on the first screen, nothing overflows, text is readable', async () => {
    // One page for all: the document of the API takes 2 s of CPU to show.
    const page = await open(`${service.url}/docs`);
    const first = page.locator('.opblock').first();
    const openDetails = (isOpen: boolean) =>
      page.evaluate(`for (const each of document.querySelectorAll("details")) each.open = ${isOpen}`);
    for (const [width, height] of [
      [1280, 720],
      [400, 700],
    ] as const)
      for (const colorScheme of ['light', 'dark'] as const) {
        const look = `${width} px, ${colorScheme}`;
        await page.setViewportSize({ width, height });
        await page.emulateMedia({ colorScheme });
        await page.evaluate('scrollTo(0, 0)');
        assert.equal((await pathsOn(page))[0], '/message/sendbatch', look);
        const box = await first.boundingBox();
        assert.ok(box !== null && box.y + box.height <= height, `${look}: ${JSON.stringify(box)}`);
        await first.locator('.opblock-summary').click();
        await openDetails(true);
        await first.locator('.execute').waitFor();
        assert.equal(await page.evaluate('document.documentElement.scrollWidth'), width, look);
        const least = 4.5;
        assert.deepEqual(await page.evaluate(`(${contrastsBelow})(${least})`), [], look);
        await openDetails(false);
        await first.locator('.opblock-summary').click();
        await first.locator('.execute').waitFor({ state: 'detached' });
      }
    await page.close();
  });

  test('the docs page logs no error and requests this service only', () => {
    assert.deepEqual(faults, []);
    assert.deepEqual([...hosts].sort(), [new URL(service.url).host, new URL(strict.url).host].sort());
  });
});

/**
 * Runs in the page: texts whose contrast with their background is below a ratio (WCAG), with their
 * ratio.
 */
const contrastsBelow = `(least) => {
  const rgba = (color) => {
    const [r, g, b, a = 1] = color.match(/[0-9.]+/g).map(Number);
    return [r, g, b, a];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((value, index) => value * a + below[index] * (1 - a));
  const behind = (element) => {
    if (element === null) return matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18] : [255, 255, 255];
    const color = rgba(getComputedStyle(element).backgroundColor);
    return color[3] === 1 ? color.slice(0, 3) : over(color, behind(element.parentElement));
  };
  const light = (color) => {
    const [r, g, b] = color.map((each) => {
      const part = each / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const poor = new Set();
  for (const element of document.querySelectorAll('.opblock-summary *, .opblock.is-open *, .more *, .info *, .opblock-tag *')) {
    const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join('');
    if (text === '' || element.checkVisibility() === false || element.closest('.opblock-summary-method, .btn')) continue;
    const below = behind(element);
    const [a, b] = [light(over(rgba(getComputedStyle(element).color), below)), light(below)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < least) poor.add(ratio.toFixed(1) + ' ' + element.className + ' ' + text.slice(0, 40));
  }
  return [...poor];
}`;
