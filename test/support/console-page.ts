import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';
import { noBrowser } from './browser.ts';
import { patienceMs } from './watch.ts';

const root = join(import.meta.dirname, '../..');
const axe = readFileSync(join(root, 'node_modules/axe-core/axe.min.js'), 'utf8');

/** For a suite's `skip`: why the console cannot be opened; false where it can. */
export const noConsole: string | false =
  noBrowser || (existsSync(join(root, 'gen/console/index.html')) ? false : 'gen/console is not built');

export interface OpenOptions extends BrowserContextOptions {
  /** Receives the errors of the page, violations of its Content-Security-Policy included. */
  readonly faults: string[];
}

/** Opens a page of the console, by the address of the service and a path such as `keys`. */
export async function openConsole(
  browser: Browser,
  address: { readonly url: string; readonly path: string },
  { faults, ...options }: OpenOptions,
): Promise<Page> {
  const page = await browser.newPage({ locale: 'en-GB', timezoneId: 'Europe/Berlin', ...options });
  page.setDefaultTimeout(patienceMs);
  page.on('pageerror', (error) => faults.push(error.message));
  page.on('console', (message) => {
    // A refused call is an answer: the browser reports its status as an error too.
    if (message.type() === 'error' && !/Failed to load resource/.test(message.text())) faults.push(message.text());
  });
  await page.goto(`${address.url}/console/${address.path}`);
  await page.getByRole('heading', { level: 1 }).waitFor();
  return page;
}

/** What axe finds on a page: rules of WCAG 2.2 AA and best practices. */
export async function axeViolations(page: Page): Promise<string[]> {
  await page.evaluate(axe);
  return await page.evaluate(async () => {
    const { run } = (globalThis as unknown as { axe: { run(options: object): Promise<AxeResults> } }).axe;
    const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
    const { violations } = await run({ runOnly: tags });
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`);
  });
}

interface AxeResults {
  readonly violations: readonly { readonly id: string; readonly nodes: readonly { readonly html: string }[] }[];
}
