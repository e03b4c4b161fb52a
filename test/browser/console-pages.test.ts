import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import type { Page } from 'playwright-core';
import { createKeys } from '../../src/auth/api-keys.ts';
import { assertAccessible, type ConsoleBrowser, noConsole, openConsoleBrowser } from '../support/console.ts';
import { openStore } from '../support/database.ts';
import { jsonCaller } from '../support/json.ts';
import { openRelay, type Relay } from '../support/relay.ts';
import { startService, type TestService } from '../support/service.ts';
import { until } from '../support/watch.ts';

const text = (value: string) => Buffer.from(value).toString('base64');
const history = 20_000;

describe('the console', { skip: noConsole }, () => {
  let service: TestService;
  let strict: TestService;
  let relay: Relay;
  let browser: ConsoleBrowser;
  let url: string;
  let call: ReturnType<typeof jsonCaller>;
  let batchId: string;
  before(async () => {
    service = await startService({ overviewEveryMs: 200, recallKeepDays: 1 });
    strict = await startService({ databaseUrl: service.databaseUrl, requiresCredential: true, open: false });
    relay = await openRelay(Number(new URL(service.url).port));
    browser = await openConsoleBrowser();
    url = `${service.url}/console`;
    call = jsonCaller(service.url);
    await call.post('/channel', { channel_id: 'news', channel_type: 2, subscribers: ['ann', 'bob'] });
    for (let first = 1; first <= history; first += 1000)
      await call.post(
        '/message/sendbatch',
        Array.from({ length: 1000 }, (_, index) => ({
          from_uid: 'ann',
          channel_id: 'news',
          channel_type: 2,
          payload: text(first + index === 7 ? '{"type":1,"id":12345678901234567890}' : `message ${first + index}`),
        })),
      );
    const messages = Array.from({ length: 1500 }, (_, index) => ({
      from_uid: 'system',
      channel_id: index % 100 === 0 ? 'closed' : `user${index}`,
      channel_type: index % 100 === 0 ? 2 : 1,
      payload: text(`offer ${index}`),
    }));
    await call.post('/channel', { channel_id: 'closed', channel_type: 2, disband: 1 });
    const { body } = await call.post('/v1/batches', {
      name: 'Autumn offer',
      request_id: 'autumn',
      messages,
      lines: messages.map((_, index) => index + 2),
    });
    batchId = body.batch.batch_id;
    await until('the batch has ended', async () => 'ended_at' in (await call.get(`/v1/batches/${batchId}`)).body);
  });
  after(async () => {
    await browser?.close();
    relay.close();
    await strict.stop();
    await service.stop();
  });

  /** Pages by their path, with the text that shows that they are complete. */
  const pages = (): [path: string, ready: { readonly en: string; readonly zh: string }][] => [
    ['/', { en: 'Messages per second', zh: '每秒消息数' }],
    ['/batches', { en: 'Autumn offer', zh: 'Autumn offer' }],
    [`/batches/${batchId}?show=refused`, { en: 'The channel was closed', zh: '通道已解散' }],
    ['/channels?uid=ann', { en: 'news', zh: 'news' }],
    ['/channels/2/news?seq=19990', { en: 'Message 19,990', zh: '第 19,990 条消息' }],
    ['/channels/2/news/lists', { en: 'bob', zh: 'bob' }],
    ['/channels/2/news/settings', { en: 'Large group', zh: '大群' }],
    ['/nowhere', { en: 'No such page', zh: '页面不存在' }],
  ];
  const looks = [
    { language: 'en', locale: 'en-US', colorScheme: 'light', viewport: { width: 1280, height: 800 } },
    { language: 'zh', locale: 'zh-CN', colorScheme: 'dark', viewport: { width: 390, height: 844 } },
  ] as const;
  for (const { language, ...look } of looks)
    test(`every page in ${language}, ${look.colorScheme}, at ${look.viewport.width} px opens, fits, and axe finds nothing`, async () => {
      const page = await browser.open(url, look);
      for (const [path, ready] of pages()) {
        // By its address once; then as a link leads there, which loads less.
        if (language === 'en') await page.goto(url + path);
        else await page.evaluate(`history.pushState(null, '', ${JSON.stringify(`/console${path}`)})`);
        await page.getByText(ready[language]).first().waitFor();
        assert.match(await page.title(), / · sendbatch$/, path);
        assert.equal(await page.evaluate('document.documentElement.scrollWidth'), look.viewport.width, path);
        await assertAccessible(page, path);
      }
      await page.context().close();
    });

  test('the keyboard reaches the content first, a new page has the focus on its heading, and Escape closes the menu', async () => {
    const page = await browser.open(url);
    await page.getByText('Messages per second').first().waitFor();
    await page.keyboard.press('Tab');
    assert.equal(await focused(page), 'Skip to the content');
    await page.getByRole('link', { name: 'Batches' }).click();
    await page.getByRole('heading', { name: 'Batches' }).waitFor();
    await until('the heading has the focus', async () => (await focused(page)) === 'Batches');
    const menu = page.locator('details.menu');
    await menu.locator('summary').click();
    await page.getByLabel('Language').selectOption('zh');
    await page.getByRole('heading', { name: '批次' }).waitFor();
    assert.equal(await page.evaluate('document.documentElement.lang'), 'zh-CN');
    await page.getByLabel('主题').selectOption('dark');
    assert.equal(await page.evaluate('getComputedStyle(document.body).colorScheme'), 'dark');
    await page.keyboard.press('Escape');
    assert.equal(await menu.getAttribute('open'), null);
    // The preferences stay, and no credential is among them.
    await page.reload();
    await page.getByRole('heading', { name: '批次' }).waitFor();
    await page.context().close();
  });

  test('a strict service asks for a key, shows what its scopes open, and asks again once it is revoked', async () => {
    const db = openStore(strict.databaseUrl);
    const keys = createKeys(db);
    const { key, keyId } = await keys.create({ name: 'marketing', scopes: ['send'] });
    const page = await browser.open(`${strict.url}/console/batches/${batchId}`);
    const before = browser.faults.length;
    await page.getByLabel('API key or token').fill('sb_wrong');
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByRole('alert').getByText('The key or token is not valid').waitFor();
    assert.match((await page.getByRole('alert').textContent()) ?? '', /Request id/);
    await assertAccessible(page, 'sign-in');
    await page.getByLabel('API key or token').fill(key);
    await page.getByRole('button', { name: 'Sign in' }).click();
    // The batch belongs to another caller; the page that was asked for is the one that opens.
    await page.getByText('This batch does not exist, or belongs to another caller').waitFor();
    const sections = await page.getByRole('navigation', { name: 'Sections' }).getByRole('link').allTextContents();
    assert.ok(sections.includes('Batches'));
    assert.ok(!sections.includes('Channels') && !sections.includes('Overview'), sections.join());
    assert.doesNotMatch(
      String(await page.evaluate('JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])')),
      /sb_/,
    );
    await keys.revoke(keyId);
    await page.getByRole('link', { name: 'Batches' }).first().click();
    await page.getByText('Sign in again to continue where you were').waitFor();
    await page.reload();
    await page.getByLabel('API key or token').waitFor();
    // A recall that is refused for its only message is no success.
    const reader = await keys.create({ name: 'reader', scopes: ['send', 'read'], senders: ['system'] });
    await page.getByLabel('API key or token').fill(reader.key);
    await page.keyboard.press('Enter');
    await page.getByRole('link', { name: 'Channels' }).waitFor();
    await page.evaluate(`history.pushState(null, '', '/console/channels/2/news?seq=7')`);
    await page.getByRole('button', { name: 'Recall…' }).click();
    assert.equal(await page.getByRole('link', { name: 'Members and lists' }).count(), 0);
    await page.getByRole('button', { name: 'Recall', exact: true }).click();
    await page.getByRole('dialog').getByText('SENDER_NOT_YOURS').waitFor();
    // The browser's own lines about the statuses 401 and 404.
    const lines = browser.faults.splice(before);
    assert.deepEqual(
      lines.filter((line) => !/status of 40[14]/.test(line)),
      [],
    );
    await db.destroy();
    await page.context().close();
  });

  test('a batch is followed to its end, exported, and its refused messages are retried once the cause is gone', async () => {
    const page = await browser.open(`${url}/batches`);
    await page.getByRole('link', { name: 'Autumn offer' }).click();
    await page.getByText('1,500 of 1,500').waitFor();
    await page.getByRole('button', { name: 'Count the reach' }).click();
    const reach = page.getByRole('region', { name: 'Reach by kind of channel' });
    assert.match((await reach.getByRole('row', { name: /^All/ }).textContent()) ?? '', /^All1,4851,4850 \(0%\)0$/);
    await page.getByLabel('Show', { exact: true }).selectOption('refused');
    const rows = page.getByRole('region', { name: 'Results in the order of sending' }).locator('tbody tr');
    await until('the refused rows', async () => (await rows.count()) === 15);
    assert.match((await rows.nth(1).textContent()) ?? '', /^101102closedGroupRefusedThe channel was closed/);
    const [file] = await Promise.all([
      page.waitForEvent('download'),
      page.getByRole('button', { name: 'Export as CSV' }).click(),
    ]);
    const csv = readFileSync(await file.path(), 'utf8')
      .trimEnd()
      .split('\r\n');
    assert.equal(csv.length, 16);
    assert.match(csv[2] ?? '', /^100,102,system,2,closed,refused,CHANNEL_DISBANDED,/);
    await call.post('/channel', { channel_id: 'closed', channel_type: 2, disband: 0 });
    await page.getByRole('button', { name: 'Retry the refused…' }).click();
    assert.equal(await focused(page), 'Cancel');
    await assertAccessible(page, 'dialog');
    await page.getByRole('button', { name: 'Retry', exact: true }).click();
    await page.getByText('15 of 15').waitFor();
    await page.getByRole('link', { name: 'Retries the refused messages of another batch' }).waitFor();
    await page.getByText('Completed', { exact: true }).waitFor();
    await page.context().close();
  });

  test('a scheduled batch is paused, its rest is sent, and what was sent is recalled after its number was entered', async () => {
    const { body } = await call.post('/v1/batches', {
      name: 'Later',
      send_at: new Date(Date.now() + 86_400_000).toISOString(),
      messages: Array.from({ length: 3 }, (_, index) => ({
        from_uid: 'system',
        channel_id: 'later',
        channel_type: 2,
        payload: text(`later ${index}`),
      })),
    });
    const page = await browser.open(`${url}/batches/${body.batch.batch_id}`);
    await page.getByRole('button', { name: 'Reschedule…' }).click();
    await page.getByLabel('Date and time (Europe/Berlin)').fill(`${new Date().getFullYear() + 1}-01-31T09:00`);
    await page.getByText('08:00:00 UTC').waitFor();
    await page.getByRole('button', { name: 'Reschedule', exact: true }).click();
    await page.getByRole('link', { name: 'Continues another batch' }).waitFor();
    await page.getByText('31 Jan').first().waitFor();
    await page.getByRole('button', { name: 'Pause…' }).click();
    await page.getByRole('button', { name: 'Pause', exact: true }).click();
    await page.getByRole('button', { name: 'Send the rest…' }).click();
    await page.getByLabel('All of them now').check();
    await page.getByRole('button', { name: 'Send the rest', exact: true }).click();
    await page.getByText('3 of 3').waitFor();
    await page.getByRole('button', { name: 'Recall…' }).click();
    await page.getByLabel(/Enter this number/).fill('2');
    await page.getByRole('button', { name: 'Recall the batch' }).click();
    await page.getByText('This is not the number of messages sent.').waitFor();
    await page.getByLabel(/Enter this number/).fill('3');
    await page.getByRole('button', { name: 'Recall the batch' }).click();
    await page.getByText('Recalled by').waitFor();
    await until('the messages are recalled', async () => {
      const { body: page } = await call.get('/v1/channels/2/later/messages');
      return page.messages.every((message: { state?: number }) => message.state === 2);
    });
    await page.context().close();
  });

  test('a channel shows any of its messages, live ones too, each once across a cut connection', async () => {
    const page = await browser.open(`http://127.0.0.1:${relay.port}/console/channels/2/news`);
    const before = browser.faults.length;
    await page.getByText('Live', { exact: true }).waitFor();
    await page.getByText(`message ${history}`, { exact: true }).waitFor();
    await page.getByLabel('Go to number').fill('7');
    await page.getByRole('button', { name: 'Go' }).first().click();
    await page.getByRole('heading', { name: 'Message 7' }).waitFor();
    assert.match(page.url(), /\?seq=7$/);
    await page.getByText('"id": 12345678901234567890').waitFor();
    await page.getByText('Hexadecimal').click();
    await page.getByText('000000  7b 22').waitFor();
    await page.getByLabel('Go to number').fill(String(history + 1));
    await page.getByRole('button', { name: 'Go' }).first().click();
    await page.getByText(`The channel has the numbers 1 to 20,000.`).waitFor();
    await page.getByRole('button', { name: 'Newest' }).click();
    const send = async (name: string) =>
      await call.post('/message/send', { from_uid: 'ann', channel_id: 'news', channel_type: 2, payload: text(name) });
    await send('before the cut');
    await page.getByText('before the cut', { exact: true }).waitFor();
    relay.cut();
    for (let index = 1; index <= 3; index++) await send(`cut ${index}`);
    await page.getByText('cut 3', { exact: true }).waitFor();
    const list = page.getByRole('region', { name: 'Messages, oldest first' });
    const shown = (await list.locator('.message-text').allTextContents()).slice(-4);
    assert.deepEqual(shown, ['before the cut', 'cut 1', 'cut 2', 'cut 3']);
    await page.getByLabel('From (user id)').fill('bob');
    await page.getByLabel('Text', { exact: true }).last().fill('from the console');
    await page.getByRole('button', { name: 'Send', exact: true }).click();
    await page.getByText(`Sent as number 20,005.`).waitFor();
    await list.getByRole('button').filter({ hasText: 'from the console' }).press('Enter');
    await until('the focus is in the panel', async () => (await focused(page)) === 'Message 20,005');
    await page.getByRole('button', { name: 'Edit…' }).press('Enter');
    const dialog = page.getByRole('dialog');
    await dialog.getByRole('button', { name: 'Save' }).press('Enter');
    await dialog.getByText('The content is unchanged.').waitFor();
    await assertAccessible(page, 'the form of an edit');
    await dialog.getByLabel('Content').fill('changed in the console');
    await page.keyboard.press('Escape');
    await until('the button that opened it has the focus', async () => (await focused(page)) === 'Edit…');
    await page.keyboard.press('Enter');
    await dialog.getByLabel('Content').fill('changed\nin the console');
    await dialog.getByRole('button', { name: 'Save' }).click();
    await list.getByText('changed in the console', { exact: true }).waitFor();
    await call.post('/v1/users/ann/conversations:read', { channel_id: 'news', channel_type: 2, read_seq: 20_005 });
    await page.getByRole('button', { name: 'Show who has read it' }).click();
    await page.getByText('1 user has read it.').waitFor();
    await page.getByRole('listitem').filter({ hasText: /^ann$/ }).waitFor();
    await page.getByRole('button', { name: 'Recall…' }).click();
    await page.getByRole('button', { name: 'Recall', exact: true }).click();
    await list.getByText('Recalled', { exact: true }).waitFor();
    // The sender cannot be asked about any more; what was sent first is kept for an administrator.
    await page.getByRole('button', { name: 'Show them' }).click();
    await page.getByText('As it was sent').waitFor();
    assert.deepEqual(await page.locator('.message-panel pre').allTextContents(), [
      'from the console',
      'changed\nin the console',
    ]);
    await assertAccessible(page, 'the panel of a message');
    // A page that cannot be loaded without a network is loaded when the user asks again.
    await page.context().setOffline(true);
    await page.getByRole('link', { name: 'Batches' }).click();
    await page.getByText('The service did not answer.', { exact: false }).waitFor();
    await page.context().setOffline(false);
    await page.getByRole('button', { name: 'Try again' }).click();
    await page.getByRole('link', { name: 'Autumn offer' }).first().waitFor();
    // The browser's own lines about the cut.
    const lines = browser.faults.splice(before);
    assert.deepEqual(
      lines.filter((line) => !/net::ERR_/.test(line)),
      [],
    );
    await page.context().close();
  });

  test('members are added and removed, and settings are saved', async () => {
    const page = await browser.open(`${url}/channels/2/news/lists`);
    await page.getByLabel('Add user ids').fill('carol, dave\ncarol');
    await page.getByRole('button', { name: 'Add', exact: true }).click();
    await page.getByText('2 user ids added.').waitFor();
    await page.getByRole('button', { name: 'Remove dave' }).click();
    await page.getByText('dave removed.').waitFor();
    const { body } = await call.get('/v1/channels/2/news/members');
    assert.deepEqual(
      body.entries.map(({ uid }: { uid: string }) => uid),
      ['ann', 'bob', 'carol'],
    );
    await page.getByRole('link', { name: 'Settings' }).last().click();
    await page.getByLabel('Large group').check();
    await page.getByRole('button', { name: 'Save' }).click();
    await page.getByText('Saved.').waitFor();
    assert.equal((await call.get('/v1/channels/2/news')).body.channel.large, 1);
    // What stops people from sending, or empties a list, is asked about.
    await page.getByLabel('Blocked', { exact: true }).check();
    await page.getByRole('button', { name: 'Save' }).press('Enter');
    await page.getByRole('dialog').getByText('Only system users can send.').waitFor();
    await page.keyboard.press('Escape');
    await until('the button has the focus', async () => (await focused(page)) === 'Save');
    assert.equal((await call.get('/v1/channels/2/news')).body.channel.ban, 0);
    await page.keyboard.press('Enter');
    await page.getByRole('button', { name: 'Apply' }).click();
    await page.getByText('Saved.').waitFor();
    assert.equal((await call.get('/v1/channels/2/news')).body.channel.ban, 1);
    await page.getByLabel('Blocked', { exact: true }).uncheck();
    await page.getByRole('button', { name: 'Save' }).click();
    await until('it is open', async () => (await call.get('/v1/channels/2/news')).body.channel.ban === 0);
    await page.getByRole('link', { name: 'Members and lists' }).click();
    await page.getByLabel('List', { exact: true }).selectOption('denylist');
    await page.getByLabel('Add user ids').fill('mallory');
    await page.getByRole('button', { name: 'Add', exact: true }).click();
    await page.getByRole('button', { name: 'Remove all…' }).click();
    await page.getByRole('dialog', { name: 'Clear the denylist of news?' }).waitFor();
    await page.getByRole('button', { name: 'Remove all', exact: true }).click();
    await page.getByText('Nobody is on this list').waitFor();
    // Addresses of what does not exist.
    for (const [path, words] of [
      ['/channels/2/news?seq=999999', 'The channel has the numbers 1 to '],
      ['/channels/1/ann', 'ann is one person'],
      ['/channels/99/news', 'No such page'],
      ['/channels/2/news/nowhere', 'No such page'],
    ] as const) {
      await page.evaluate(`history.pushState(null, '', ${JSON.stringify(`/console${path}`)})`);
      await page.getByText(words, { exact: false }).first().waitFor();
    }
    await page.context().close();
  });

  test('the pages log no error and call the service only', () => {
    assert.deepEqual(browser.faults, []);
    const own = [service.url, strict.url, `http://127.0.0.1:${relay.port}`].map((each) => new URL(each).host);
    assert.deepEqual([...browser.hosts].sort(), own.sort());
  });
});

async function focused(page: Page): Promise<string> {
  return String(await page.evaluate('document.activeElement.textContent'));
}
