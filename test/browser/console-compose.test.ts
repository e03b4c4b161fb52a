import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { writeXlsx } from 'hucre/xlsx';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';
import { launchBrowser, noBrowser } from '../support/browser.ts';
import { toGbk } from '../support/gbk.ts';
import { jsonCaller } from '../support/json.ts';
import { startService, type TestService } from '../support/service.ts';
import { patienceMs, until } from '../support/watch.ts';

const root = join(import.meta.dirname, '../..');
const axe = readFileSync(join(root, 'node_modules/axe-core/axe.min.js'), 'utf8');
/** The console is built before a release is tested. */
const isAbsent = existsSync(join(root, 'gen/console/index.html')) ? false : 'gen/console is not built';

const uploadPath = '/sendbatch.v1.BatchService/SubmitBatchStream';

/** A proxy that cuts the next uploads after some bytes, and can hold the one after them. */
async function openCutter(target: number) {
  let cutsLeft = 0;
  let cuts = 0;
  let held: Promise<void> | undefined;
  const clients = new Set<net.Socket>();
  const server = net.createServer((client) => {
    clients.add(client);
    client.on('close', () => clients.delete(client));
    const upstream = net.connect(target, '127.0.0.1');
    let isUpload = false;
    let bytes = 0;
    for (const socket of [client, upstream]) socket.on('error', () => {});
    client.on('close', () => upstream.destroy());
    upstream.on('close', () => client.destroy());
    client.on('data', (chunk) => {
      if (chunk.includes(uploadPath)) isUpload = true;
      if (isUpload) bytes += chunk.length;
      if (cutsLeft > 0 && isUpload && bytes > 50_000) {
        cutsLeft--;
        cuts++;
        upstream.destroy();
        client.resetAndDestroy();
        return;
      }
      if (!isUpload || held === undefined || cutsLeft > 0) {
        upstream.write(chunk);
        return;
      }
      client.pause();
      void held.then(() => {
        upstream.write(chunk);
        client.resume();
      });
    });
    upstream.on('data', (chunk) => client.write(chunk));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as net.AddressInfo).port}`,
    cutUploads(count: number) {
      cutsLeft = count;
      // The browser itself repeats a request whose connection was idle before.
      for (const client of clients) client.destroy();
    },
    /** Holds uploads until the returned function is called. */
    holdUploads(): () => void {
      const { promise, resolve } = Promise.withResolvers<void>();
      held = promise;
      return () => {
        held = undefined;
        resolve();
      };
    },
    get cuts() {
      return cuts;
    },
    close: () => server.close(),
  };
}

describe('the page Compose of the console', { skip: noBrowser || isAbsent }, () => {
  let service: TestService;
  let cutter: Awaited<ReturnType<typeof openCutter>>;
  let browser: Browser;
  /** The errors of the pages. */
  const faults: string[] = [];
  before(async () => {
    service = await startService();
    cutter = await openCutter(Number(new URL(service.url).port));
    browser = await launchBrowser();
  });
  after(async () => {
    await browser?.close();
    cutter.close();
    await service.stop();
  });

  const open = async (options: BrowserContextOptions = {}): Promise<Page> => {
    const page = await browser.newPage({ locale: 'en-GB', timezoneId: 'Europe/Berlin', ...options });
    page.setDefaultTimeout(patienceMs);
    page.on('pageerror', (error) => faults.push(error.message));
    // A cut connection is reported by the browser itself.
    page.on('console', (message) => {
      if (message.type() === 'error' && !/ERR_CONNECTION|ERR_EMPTY/.test(message.text())) faults.push(message.text());
    });
    await page.goto(`${cutter.url}/console/compose`);
    await page.getByRole('heading', { level: 1 }).waitFor();
    return page;
  };
  const choose = async (page: Page, name: string, content: string | Uint8Array) =>
    await page
      .locator('input[type=file]')
      .setInputFiles({ name, mimeType: 'application/octet-stream', buffer: Buffer.from(content) });
  const button = (page: Page, name: string | RegExp) => page.getByRole('button', { name });
  /** What axe finds on the page, in words. */
  const violations = async (page: Page): Promise<string[]> => {
    await page.evaluate(axe);
    return await page.evaluate(async () => {
      const { run } = (globalThis as unknown as { axe: { run(options: object): Promise<AxeResults> } }).axe;
      const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
      const { violations } = await run({ runOnly: tags });
      return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`);
    });
  };
  /** Sets a time some seconds ahead; again while the machine stood still for longer. */
  const schedule = async (page: Page, seconds: number) => {
    await page.getByLabel('At a time').check();
    await page.getByRole('region', { name: 'Send' }).getByLabel('Time zone').selectOption('UTC');
    await until('a time ahead is accepted', async () => {
      const time = new Date(Date.now() + seconds * 1000).toISOString().slice(0, 19);
      await page.getByLabel('Date and time').fill(time);
      return await page.getByText(/^That is /).isVisible();
    });
  };

  test('a GBK table of 50,000 rows becomes a scheduled batch of personal messages, whose refused ones are retried', async () => {
    // Fewer receivers than rows: 50,000 new channels take most of a minute on a busy machine.
    const [people, receivers, refused] = [50_000, 15_000, 30];
    const rows = ['用户编号,姓名,城市,积分'];
    for (let row = 0; row < people; row++) {
      const uid = String(row % receivers).padStart(6, '0');
      const city = row < refused ? '禁词' : '北京';
      rows.push(row % 2500 === 1250 ? `${uid},张三` : `${uid},"张三,${row}",${city},${row * 3}`);
    }
    const call = jsonCaller(service.url);
    const { body: rule } = await call.post('/v1/moderation/rules', {
      action: 'RULE_ACTION_REFUSE',
      keywords: ['禁词'],
    });
    const page = await open();
    await choose(page, '名单.csv', toGbk(`${rows.join('\n')}\n`));
    await page.getByText('20 rows cannot be read').waitFor();
    assert.equal(await page.getByLabel('Encoding').inputValue(), 'gb18030');
    assert.equal(await page.getByLabel('Column with the receiver').inputValue(), '用户编号');
    await page.getByLabel('Text', { exact: true }).fill('您好，{{ 姓名 }}！您在{{ 城市 }}的积分：');
    await button(page, '积分').click();
    const preview = page.getByTestId('preview');
    await page.getByText('Line 2 · to 000000').waitFor();
    await until(
      'the preview is rendered',
      async () => (await preview.textContent()) === '您好，张三,0！您在禁词的积分：0',
    );

    await button(page, 'Send only the first row per receiver').click();
    await page.getByText('34,986 duplicate rows are left out').waitFor();
    await button(page, 'Check with the service').click();
    const report = page.getByTestId('report');
    await report.getByText('would refuse 30 messages now').waitFor();
    assert.match((await report.textContent()) ?? '', /A content rule refused the text/);
    assert.deepEqual(await violations(page), []);
    await schedule(page, 4);
    await button(page, 'Review').click();
    await button(page, 'Schedule 14,994 messages').click();
    await page.getByText('14,994 messages are with the service').waitFor();
    await page.getByRole('link', { name: 'Follow the batch' }).click();

    // Its page: the refused ones, then their retry without the rule.
    const batchId = new URL(page.url()).pathname.split('/').at(-1);
    await until('the batch is sent', async () => (await call.get(`/v1/batches/${batchId}`)).body.state === 4);
    const { body: batch } = await call.get(`/v1/batches/${batchId}`);
    assert.deepEqual([batch.accepted_count, batch.refused_count, batch.name], [14_964, 30, '名单']);
    assert.ok(Date.parse(batch.started_at) >= Date.parse(batch.send_at), 'not before its time');
    const { body: results } = await call.get(`/v1/batches/${batchId}/results?refused_only=true`);
    assert.deepEqual([results.results[0].line, results.results[0].channel_id], [2, '000000']);
    const { body: history } = await call.get('/v1/channels/1/system@000040/messages?uid=000040');
    assert.equal(Buffer.from(history.messages[0].payload, 'base64').toString(), '您好，张三,40！您在北京的积分：120');
    await fetch(`${service.url}/v1/moderation/rules/${rule.rule_id}`, { method: 'DELETE' });
    await button(page, /^Retry the refused/).click();
    await page.getByRole('button', { name: 'Retry', exact: true }).click();
    await page.waitForURL((url) => !url.pathname.endsWith(String(batchId)));
    const retryId = new URL(page.url()).pathname.split('/').at(-1);
    await until('the retry is sent', async () => (await call.get(`/v1/batches/${retryId}`)).body.accepted_count === 30);
    await page.close();
  });

  test('an upload that is cut starts again under the same key while other pages are open, and is not sent twice', async () => {
    const rows = Array.from({ length: 4000 }, (_, row) => `cut-${row},${randomBytes(24).toString('hex')}`);
    const page = await open({ colorScheme: 'dark' });
    const submit = async (before = () => {}) => {
      await choose(page, 'cut.csv', `uid,message\n${rows.join('\n')}\n`);
      await button(page, 'Check with the service').click();
      await page.getByText('The service accepts all 4,000 messages').waitFor();
      await button(page, 'Review').click();
      before();
      // The second click of a double click must not submit again.
      await button(page, 'Send 4,000 messages').dblclick();
    };
    const release = cutter.holdUploads();
    await submit(() => cutter.cutUploads(2));
    await page.getByText('start again from the beginning (attempt').waitFor();
    await until('both uploads are cut', () => cutter.cuts === 2);
    assert.deepEqual(await violations(page), []);
    await page.getByRole('link', { name: 'Batches' }).click();
    await page.getByRole('heading', { name: 'Batches', level: 1 }).waitFor();
    await page.goBack();
    await page.getByText('start again from the beginning (attempt').waitFor();
    release();
    await page.getByText('4,000 messages are with the service').waitFor();
    await button(page, 'Compose another').click();
    await submit();
    await page.getByText('nothing was sent twice').waitFor();
    const named = async () => {
      const { body } = await jsonCaller(service.url).get('/v1/batches');
      return body.batches.filter(({ name }: { name: string }) => name === 'cut').length;
    };
    assert.equal(await named(), 1);
    // Once more is a decision of its own; it also has one key per earlier batch.
    await button(page, 'Send them once more').click();
    await page.getByRole('dialog').getByRole('button', { name: 'Send them once more' }).click();
    await page.getByText('4,000 messages are with the service').waitFor();
    assert.equal(await named(), 2);
    await page.close();
  });

  test('an upload that a reload ends is reported afterwards, as is one that had arrived', async () => {
    const page = await open();
    page.on('dialog', (dialog) => void dialog.accept());
    const submit = async (name: string) => {
      await choose(page, `${name}.csv`, `uid,message\nreload-${name},Hello\n`);
      await button(page, 'Check with the service').click();
      await page.getByText('The service accepts the message').waitFor();
      await button(page, 'Review').click();
      await button(page, 'Send 1 message').click();
    };
    const release = cutter.holdUploads();
    await submit('ended');
    await button(page, 'Stop the upload').waitFor();
    await page.reload();
    await page.getByText('The upload of “ended” ended when this page was left, and has not arrived').waitFor();
    assert.deepEqual(await violations(page), []);
    await button(page, 'Close this message').click();
    release();
    await submit('arrived');
    await page.getByText('1 message is with the service').waitFor();
    // As if the page had been left before the answer.
    const { body } = await jsonCaller(service.url).get('/v1/batches');
    const { request_id: requestId } = body.batches.find(({ name }: { name: string }) => name === 'arrived');
    await page.evaluate(
      ([key, note]) => sessionStorage.setItem(key as string, note as string),
      ['sendbatch.console.upload', JSON.stringify({ requestId, messageCount: 1, name: 'arrived', isOfPage: true })],
    );
    await page.reload();
    await page.getByText('The upload of “arrived” had arrived completely: 1 message is with the service').waitFor();
    await page.close();
  });

  test('a workbook and a test message, in Chinese, at 390 px', async () => {
    const page = await open({ locale: 'zh-CN', viewport: { width: 390, height: 800 } });
    const rows = [
      ['会员号', '姓名', '邮编'],
      ['007', '李四', '00123'],
    ];
    assert.deepEqual(await violations(page), []);
    await choose(page, '会员.xlsx', await writeXlsx({ sheets: [{ name: '会员', rows }] }));
    await page.getByLabel('正文', { exact: true }).fill('{{ 姓名 }}，邮编 {{ 邮编 }}');
    await until(
      'the preview is rendered',
      async () => (await page.getByTestId('preview').textContent()) === '李四，邮编 00123',
    );
    assert.deepEqual(await violations(page), []);
    await button(page, '给自己发一条测试').click();
    assert.deepEqual(await violations(page), []);
    await page.getByLabel('您的用户 ID').fill('me');
    await button(page, '发送测试').click();
    await page.getByText('测试消息已发送').waitFor();
    const width = await page.evaluate<number>('document.documentElement.scrollWidth');
    assert.ok(width <= 390, `the page is ${width} px wide`);
    const { body } = await jsonCaller(service.url).get('/v1/channels/1/system@me/messages?uid=me');
    assert.equal(Buffer.from(body.messages[0].payload, 'base64').toString(), '李四，邮编 00123');
    await page.close();
  });

  test('a local time that clock changes skip or repeat is refused', async () => {
    const page = await open();
    await choose(page, 'one.csv', 'uid,message\n1,Hello\n');
    await page.getByLabel('At a time').check();
    await page.getByLabel('Date and time').fill('2027-03-28T02:30');
    await page.getByText('clocks go forward').waitFor();
    await page.getByLabel('Date and time').fill('2027-10-31T02:30');
    await page.getByText('Choose 00:30 or 01:30 in UTC').waitFor();
    await page.getByLabel('Date and time').fill('2020-01-01T00:00');
    await page.getByText('This time has passed').waitFor();
    await page.close();
  });

  test('no page had an error', () => assert.deepEqual(faults, []));
});

interface AxeResults {
  readonly violations: readonly { readonly id: string; readonly nodes: readonly { readonly html: string }[] }[];
}
