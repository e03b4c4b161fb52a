import { existsSync } from 'node:fs';
import { type Browser, chromium } from 'playwright-core';

/** Debian's Chromium; `.ci/run` installs it. */
const program = '/usr/bin/chromium';
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
export const noBrowser: string | false = existsSync(program) ? false : `${program} is not installed`;

export async function launchBrowser(): Promise<Browser> {
  return await chromium.launch({ executablePath: program, args: flags });
}
