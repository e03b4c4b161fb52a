import { existsSync } from 'node:fs';
import { type Browser, chromium } from 'playwright-core';

/**
 * Debian's Chromium without windows, which takes 60 % of the CPU of the whole one; `.ci/run`
 * installs it.
 */
const programs = ['/usr/bin/chromium-headless-shell', '/usr/bin/chromium'];
const program = programs.find((path) => existsSync(path));
const flags = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

/** For a suite's `skip`: the reason why there is no browser; false where there is one. */
export const noBrowser: string | false = program !== undefined ? false : `${programs.join(' or ')} is not installed`;

export async function launchBrowser(): Promise<Browser> {
  return await chromium.launch({ ...(program === undefined ? {} : { executablePath: program }), args: flags });
}
