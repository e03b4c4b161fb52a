import assert from 'node:assert/strict';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, describe, test } from 'node:test';
import type { BrowserContextOptions, Page } from 'playwright-core';
import { assertAccessible, type ConsoleBrowser, noConsole, openConsoleBrowser } from '../support/console.ts';
import { jsonCaller } from '../support/json.ts';
import { type Receiver, startReceiver, status } from '../support/receiver.ts';
import { startService, type TestService } from '../support/service.ts';
import { until } from '../support/watch.ts';

/** A proxy that serves a service below a path, which it removes. */
async function openPrefixProxy(target: string, prefix: string) {
  const server = createServer((incoming, outgoing) => {
    const { method, headers, url = '' } = incoming;
    if (!url.startsWith(`${prefix}/`)) return void outgoing.writeHead(404).end();
    const forwarded = request(target + url.slice(prefix.length), { method, headers }, (response) => {
      outgoing.writeHead(response.statusCode ?? 502, response.headers);
      response.pipe(outgoing);
    });
    forwarded.on('error', () => outgoing.destroy());
    incoming.pipe(forwarded);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}${prefix}`,
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

describe('the pages of the console for operators', { skip: noConsole }, () => {
  let service: TestService;
  let browser: ConsoleBrowser;
  let receiver: Receiver;
  let call: ReturnType<typeof jsonCaller>;
  before(async () => {
    service = await startService({
      webhooks: {
        settings: undefined,
        allowPrivate: true,
        timeoutMs: 60_000,
        retrySchedule: { maxAttempts: 1, breakMs: 1, maxBreakMs: 1 },
      },
    });
    call = jsonCaller(service.url);
    receiver = await startReceiver();
    browser = await openConsoleBrowser();
  });
  after(async () => {
    await browser?.close();
    await receiver?.close();
    await service?.stop();
  });
  const open = (path: string, options: BrowserContextOptions = {}, url = service.url) =>
    browser.open(`${url}/console/${path}`, options);
  const press = (page: Page, name: string) => page.getByRole('button', { name, exact: true }).click();
  const fill = (page: Page, label: string, text: string) => page.getByLabel(label, { exact: true }).fill(text);
  /** The focus follows its element only once the dialog is open. */
  const focused = (page: Page) => page.evaluate<string>('document.activeElement?.textContent ?? ""');
  const base64 = (text: string) => Buffer.from(text).toString('base64');

  test('a key is created by keyboard, shown once, and revoked', async () => {
    const page = await open('keys');
    await page.getByRole('button', { name: 'Create a key' }).focus();
    await page.keyboard.press('Enter');
    const dialog = page.getByRole('dialog');
    await dialog.getByRole('button', { name: 'Create', exact: true }).focus();
    await page.keyboard.press('Enter');
    await dialog.getByText('Enter a name.').waitFor();
    await fill(page, 'Name', 'billing');
    await fill(page, 'User ids that it may send as', 'billing\nalerts');
    await dialog.getByLabel('read Read history', { exact: false }).check();
    await page.getByLabel('Expires', { exact: true }).selectOption('d90');
    await assertAccessible(page, 'the form of a key');
    await dialog.getByLabel('Name').press('Enter');
    await page.getByRole('dialog', { name: 'The key “billing” was created' }).waitFor();
    const secret = await page.getByLabel('Key', { exact: true }).inputValue();
    assert.match(secret, /^sb_[a-z0-9]{16}_/);
    await dialog.getByText('“Authorization: Bearer <key>”').waitFor();
    await assertAccessible(page, 'a new key');
    await page.keyboard.press('Escape');
    await until(
      'the button that opened the dialog has the focus',
      async () => (await focused(page)) === 'Create a key',
    );
    await page.getByRole('rowheader', { name: 'billing' }).waitFor();
    assert.ok(!(await page.content()).includes(secret), 'nothing keeps the key');
    const { body } = await call.get('/v1/keys');
    assert.deepEqual(
      [body.keys[0].scopes, body.keys[0].senders, Date.parse(body.keys[0].expires_at) > Date.now() + 89 * 86_400_000],
      [['send', 'read'], ['billing', 'alerts'], true],
    );
    await press(page, 'Revoke billing');
    await press(page, 'Revoke the key');
    await page.getByText('“billing” was revoked.').waitFor();
    await page.getByRole('cell', { name: 'Revoked', exact: false }).waitFor();
    assert.equal((await call.get('/v1/keys')).body.keys[0].state, 3);
    await page.close();
  });

  test('a rule is added, tried on a text, changed and deleted, and what it flags is reviewed', async () => {
    const page = await open('moderation/rules');
    await press(page, 'Add a rule');
    await page.getByLabel('Refuse', { exact: false }).check();
    await fill(page, 'Keywords', 'casino\nlottery');
    await fill(page, 'Patterns', '(');
    await fill(page, 'Note', 'advertising');
    await press(page, 'Save');
    await page.getByText('is not a valid RE2 pattern', { exact: false }).waitFor();
    await fill(page, 'Patterns', '');
    await press(page, 'Save');
    await page.getByText('The rule was saved.').waitFor();

    await page.getByRole('link', { name: 'Try a text' }).click();
    await fill(page, 'Text or JSON', 'Win at the CASINO');
    await press(page, 'Try it');
    await page.getByText('The message would be refused.').waitFor();
    await page.getByRole('cell', { name: 'advertising' }).waitFor();
    await assertAccessible(page, 'the outcome of a test');
    await fill(page, 'Text or JSON', 'Hello');
    await press(page, 'Try it');
    await page.getByText('No rule matches').waitFor();

    await page.getByRole('link', { name: 'Rules', exact: true }).click();
    await page.getByRole('button', { name: /^Edit rule/ }).click();
    await page.getByLabel('Flag', { exact: false }).check();
    await press(page, 'Save');
    await page.getByRole('cell', { name: 'Flag', exact: true }).waitFor();
    const sent = { from_uid: 'ann', channel_id: 'help/desk', channel_type: 3, payload: base64('my lottery') };
    assert.equal((await call.post('/message/send', sent)).status, 200);
    await page.getByRole('link', { name: 'To review' }).click();
    const row = page.getByRole('row').filter({ hasText: 'my lottery' });
    await row.waitFor();
    assert.equal(
      await row.getByRole('link', { name: 'help/desk' }).getAttribute('href'),
      '/console/channels/3/help%2Fdesk?seq=1',
    );
    await assertAccessible(page, 'the queue');
    await row.getByRole('checkbox').check();
    await press(page, 'Mark as reviewed');
    await page.getByText('1 message was reviewed.').waitFor();
    await page.getByText('Nothing to review').waitFor();

    await page.getByRole('link', { name: 'Rules', exact: true }).click();
    await page.getByRole('button', { name: /^Delete rule/ }).click();
    await press(page, 'Delete the rule');
    await page.getByText('No rules', { exact: true }).waitFor();
    await page.close();
  });

  test('a template gets versions, which are previewed and compared', async () => {
    const page = await open('templates');
    await press(page, 'New template');
    await fill(page, 'Name', 'order.sent');
    await fill(page, 'Text', 'Hello {{ name }},\nyour order left.\nBye');
    await press(page, 'Save');
    await page.getByRole('heading', { name: 'order.sent', level: 1 }).waitFor();
    await fill(page, 'name', 'Ann & Bob');
    await press(page, 'Show');
    await page.getByText('Hello Ann & Bob,').waitFor();
    await press(page, 'New version');
    await fill(page, 'Text', 'Hello {{ name }},\nyour order {{ order }} left.\nBye');
    await press(page, 'Save');
    await page.getByRole('region', { name: 'Text of version 2' }).waitFor();
    await page.getByLabel('Version', { exact: true }).selectOption('1');
    await page.getByLabel('With version', { exact: true }).selectOption('2');
    const lines = page.getByRole('figure').getByRole('listitem');
    await lines.first().waitFor();
    assert.deepEqual(
      (await lines.allTextContents()).map((line) => line.replace(/\s+/g, ' ').trim()),
      ['Hello {{ name }},', '− removed your order left.', '+ added your order {{ order }} left.', 'Bye'],
    );
    assert.match(page.url(), /\/console\/templates\/order\.sent\?version=1&with=2$/);
    await assertAccessible(page, 'the comparison');
    await page.reload();
    await lines.first().waitFor();
    await page.getByRole('button', { name: 'Delete', exact: true }).click();
    await press(page, 'Delete the template');
    await page.getByText('No templates yet').waitFor();
    await page.close();
  });

  test('a webhook is created and tested, gets a new secret, and its parked delivery is delivered again', async () => {
    const page = await open('webhooks');
    await press(page, 'New webhook');
    await fill(page, 'Name', 'shop');
    await fill(page, 'Address', receiver.url);
    await press(page, 'Save');
    await page.getByRole('dialog', { name: 'The secret of “shop”' }).waitFor();
    const secret = await page.getByLabel('Secret', { exact: true }).inputValue();
    assert.match(secret, /^whsec_/);
    await press(page, 'I have copied it');
    await page.getByRole('link', { name: 'shop' }).click();
    await press(page, 'Send a test');
    await page.getByText('The receiver answered 200 after', { exact: false }).waitFor();
    await press(page, 'New secret');
    await press(page, 'Create a new secret');
    await page.getByRole('dialog', { name: 'The secret of “shop”' }).waitFor();
    assert.notEqual(await page.getByLabel('Secret', { exact: true }).inputValue(), secret);
    await press(page, 'I have copied it');

    receiver.answer = status(500);
    await call.post('/message/send', { from_uid: 'ann', channel_id: 'orders', channel_type: 6, payload: 'SGk=' });
    const deliveries = async () => (await call.get('/v1/webhooks/shop/deliveries')).body.deliveries;
    await until('it is parked', async () => (await deliveries())[0]?.state === 2);
    // The page looks again by itself too, every five seconds.
    await page.reload();
    await page.getByRole('cell', { name: 'Parked', exact: true }).waitFor();
    await assertAccessible(page, 'the deliveries');
    receiver.answer = status(200);
    const before = receiver.received.length;
    await page.getByRole('checkbox', { name: /^Choose delivery/ }).check();
    await press(page, 'Deliver again');
    await page.getByText('1 delivery was queued again.').waitFor();
    await receiver.until('it is delivered again', () => receiver.received.length > before);
    await until('nothing is left', async () => (await deliveries()).length === 0);
    await page.reload();
    await page.getByText('Every delivery was accepted').waitFor();
    await press(page, 'Delete');
    await press(page, 'Delete the webhook');
    await page.getByText('No webhooks yet').waitFor();
    await page.close();
  });

  test('settings are found by word and limits are listed, behind a path prefix too', async () => {
    const proxy = await openPrefixProxy(service.url, '/ops/messages');
    const page = await open('settings?q=lanes', {}, proxy.url);
    await page.getByRole('heading', { name: 'LANES', exact: true }).waitFor();
    await page.getByLabel('Find').fill('libpq');
    await page.getByRole('heading', { name: 'DATABASE_URL', exact: true }).waitFor();
    await page.getByText('set, not shown').waitFor();
    assert.ok(!(await page.content()).includes('postgres://set'), 'no secret is on the page');
    await page.getByRole('link', { name: 'Limits' }).click();
    await page.getByRole('row', { name: 'Messages per batch 1,000' }).waitFor();
    assert.equal(new URL(page.url()).pathname, '/ops/messages/console/settings/limits');
    await page.goto(`${proxy.url}/console`);
    await page.getByRole('link', { name: 'Webhooks' }).waitFor();
    assert.equal(new URL(page.url()).pathname, '/ops/messages/console/');
    await page.close();
    proxy.close();
  });

  test('the pages are accessible in both languages and themes and fit 390 px', async () => {
    await call.post('/v1/templates', { name: 'one', body: 'Hi {{ name }}' });
    await call.post('/v1/webhooks', { name: 'one', url: receiver.url, disabled: true });
    await call.post('/v1/moderation/rules', { action: 'mask', keywords: ['密码'], note: '一条规则' });
    await call.post('/v1/keys', { name: 'one', scopes: ['send'], senders: ['a-rather-long-user-id-without-a-break'] });
    const narrow = { locale: 'zh-CN', viewport: { width: 390, height: 800 }, colorScheme: 'dark' } as const;
    const page = await open('keys', narrow);
    for (const [path, ready] of [
      ['keys', '吊销'],
      ['moderation', '没有待复核的消息'],
      ['moderation/rules', '一条规则'],
      ['moderation/test', '试一下'],
      ['templates', 'one'],
      ['templates/one', 'Hi {{ name }}'],
      ['webhooks', '已停用'],
      ['webhooks/one', '所有投递都已被接受'],
      ['settings', '共用端口的进程数'],
      ['settings/limits', '每批消息数'],
    ] as const) {
      await page.goto(`${service.url}/console/${path}`);
      await page.locator('main').getByText(ready).first().waitFor();
      await assertAccessible(page, path);
      const width = await page.evaluate<number>('document.documentElement.scrollWidth');
      assert.ok(width <= 390, `${path} is ${width} px wide`);
    }
    await page.close();
  });

  test('no page had an error', () => {
    // The browser reports the status of a refused call as an error too.
    const own = browser.faults.filter((fault) => !fault.startsWith('Failed to load resource'));
    assert.deepEqual(own, []);
  });
});
