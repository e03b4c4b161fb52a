import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Browser } from 'playwright-core';
import { launchBrowser, noBrowser } from '../support/browser.ts';
import { temporaryFolder } from '../support/cluster.ts';
import { jsonCaller } from '../support/json.ts';
import { type PageServer, servePages } from '../support/page-server.ts';
import { startService, type TestService } from '../support/service.ts';

const root = join(import.meta.dirname, '../..');

/**
 * The page's work: the client over Connect-Web, and EventSource, both from another origin than the
 * service's.
 */
const script = `
  import { ChannelType, createSendbatch, reasonOf } from 'sendbatch/client';
  import { createConnectTransport, createGrpcWebTransport } from '@connectrpc/connect-web';
  const url = new URLSearchParams(location.search).get('service');
  window.run = async () => {
    const said = {};
    for (const [name, create] of [['connect', createConnectTransport], ['grpc-web', createGrpcWebTransport]]) {
      const sendbatch = createSendbatch({ transport: create({ baseUrl: url }) });
      const channel = { channelType: ChannelType.GROUP, channelId: 'page-' + name };
      const messages = Array.from({ length: 3 }, (_, index) => ({ ...channel, fromUid: 'system', payload: new Uint8Array([index]) }));
      const results = await sendbatch.send(messages);
      said[name] = { sent: results.map((each) => Number(each.messageSeq)), seen: [] };
      for await (const message of sendbatch.tail({ channels: [channel] })) {
        said[name].seen.push([Number(message.messageSeq), message.payload[0]]);
        if (said[name].seen.length === 3) break;
      }
      const key = { ...channel, fromUid: 'system', clientMsgNo: 'used twice' };
      const mixed = await sendbatch.send([1, 2].map((byte) => ({ ...key, payload: new Uint8Array([byte]) })));
      const { error } = mixed[1];
      said[name].mixed = [Number(mixed[0].messageSeq), error.code, error.reason, error.metadata.message_seq, reasonOf(error)];
    }
    return said;
  };
  window.listen = (ids) => new Promise((resolve) => {
    const source = new EventSource(url + '/v1/channels/2/page-events/events');
    const seen = [];
    source.addEventListener('message', (event) => {
      seen.push([event.lastEventId, JSON.parse(event.data).message_seq]);
      window.seen = seen.length;
      if (seen.length === ids) { source.close(); resolve(seen); }
    });
  });
  window.ready = true;`;

describe('a page of another origin', { skip: noBrowser }, () => {
  /** Owns the database while the other instance stops and starts. */
  let keeper: TestService;
  let service: TestService;
  let pages: PageServer;
  let browser: Browser;
  let dist: string;
  /** The errors of the pages. */
  const faults: string[] = [];
  before(async () => {
    keeper = await startService();
    service = await startService({ databaseUrl: keeper.databaseUrl });
    dist = temporaryFolder('dist');
    // Types are checked elsewhere, which takes three times as long.
    const options = ['--noCheck', '--declaration', 'false', '--outDir', join(dist, 'dist')];
    const built = spawnSync(
      join(root, 'node_modules/.bin/tsc'),
      ['-p', join(root, 'tsconfig.build.json'), ...options],
      { encoding: 'utf8' },
    );
    assert.equal(built.status, 0, built.stdout);
    pages = await servePages({ '/': `<script type="module">${script}</script>` }, dist);
    browser = await launchBrowser();
  });
  after(async () => {
    await browser?.close();
    pages.close();
    await service.stop();
    await keeper.stop();
    rmSync(dist, { recursive: true, force: true });
  });
  const open = async () => {
    const page = await browser.newPage();
    page.on('pageerror', (error) => faults.push(error.message));
    page.on('console', (message) => message.type() === 'error' && faults.push(message.text()));
    await page.goto(`${pages.url}/?service=${encodeURIComponent(service.url)}`);
    await page
      .waitForFunction('window.ready === true', undefined, { timeout: 60_000 })
      .catch(() => assert.fail(faults.join('\n')));
    return page;
  };

  test('a page of another origin sends, reads refusals and follows with Connect-Web defaults over Connect and gRPC-Web', async () => {
    const page = await open();
    const each = {
      sent: [1, 2, 3],
      seen: [
        [1, 0],
        [2, 1],
        [3, 2],
      ],
      mixed: [4, 6, 'CLIENT_MSG_NO_REUSED', '4', 'CLIENT_MSG_NO_REUSED'],
    };
    assert.deepEqual(await page.evaluate('window.run()'), { connect: each, 'grpc-web': each });
    await page.close();
  });

  test('a page of another origin follows with EventSource, which resumes by itself when the connection is cut', async () => {
    const call = jsonCaller(service.url);
    const send = () =>
      call.post('/message/send', { channel_id: 'page-events', channel_type: 2, from_uid: 'system', payload: 'SGk=' });
    await send();
    await send();
    const page = await open();
    const listening = page.evaluate('window.listen(4)');
    await page.waitForFunction('window.seen === 2');
    const { databaseUrl, url } = service;
    await service.stop();
    service = await startService({ databaseUrl, port: Number(new URL(url).port) });
    const again = jsonCaller(service.url);
    for (let index = 0; index < 2; index++)
      await again.post('/message/send', {
        channel_id: 'page-events',
        channel_type: 2,
        from_uid: 'system',
        payload: 'SGk=',
      });
    assert.deepEqual(await listening, [
      ['1.0', 1],
      ['2.0', 2],
      ['3.0', 3],
      ['4.0', 4],
    ]);
    await page.close();
  });
});
