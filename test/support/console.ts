import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';
import { launchBrowser, noBrowser } from './browser.ts';
import { patienceMs } from './watch.ts';

const root = join(import.meta.dirname, '../..');

/** For a suite's `skip`: why the console cannot be tested; false where it can. */
export const noConsole: string | false =
  noBrowser ||
  (existsSync(join(root, 'gen/console/index.html')) ? false : 'gen/console is missing: npm run build:console');

/** A browser for the pages of the console. */
export interface ConsoleBrowser {
  /** Opens a page of the console by its path, in a context of its own. */
  open(url: string, options?: BrowserContextOptions): Promise<Page>;
  /** What went wrong on any page: exceptions, errors in the console, violated policies. */
  readonly faults: string[];
  /** The hosts that the pages have called. */
  readonly hosts: ReadonlySet<string>;
  close(): Promise<void>;
}

export async function openConsoleBrowser(): Promise<ConsoleBrowser> {
  const browser: Browser = await launchBrowser();
  const faults: string[] = [];
  const hosts = new Set<string>();
  return {
    faults,
    hosts,
    async open(url, options = {}) {
      const context = await browser.newContext({ locale: 'en-US', timezoneId: 'Europe/Berlin', ...options });
      const page = await context.newPage();
      page.setDefaultTimeout(patienceMs);
      page.on('pageerror', (error) => faults.push(error.message));
      page.on('console', (message) => message.type() === 'error' && faults.push(message.text()));
      page.on('request', (request) => {
        if (/^https?:/.test(request.url())) hosts.add(new URL(request.url()).host);
      });
      await page.goto(url);
      return page;
    },
    close: () => browser.close(),
  };
}

const axe = readFileSync(join(root, 'node_modules/axe-core/axe.min.js'), 'utf8');

/** Fails with what axe finds on the page against WCAG 2.2 AA and its best practices. */
export async function assertAccessible(page: Page, what: string): Promise<void> {
  // Not as a script of the page, which its policy forbids.
  await page.evaluate(axe);
  const found = (await page.evaluate(`axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) =>
    violations.map(({ id, nodes }) => id + ': ' + nodes.map(({ html, failureSummary }) => html + ' ' + failureSummary).join(' | ')))`)) as string[];
  assert.deepEqual(found, [], what);
}
