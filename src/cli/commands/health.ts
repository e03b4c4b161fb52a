import { get } from 'node:http';
import { get as getSecure } from 'node:https';
import type { Command } from 'commander';
import { type Config, loadConfig } from '../../config/index.ts';
import { print, visible } from '../output/output.ts';
import { CommandError, exit, withExamples } from '../usage.ts';

/** Below the time-out of the image's HEALTHCHECK. */
const patienceMs = 2500;

/** For an image that has no shell and no curl. */
export function addHealth(program: Command): void {
  const command = program
    .command('health')
    .summary('ask the service on this machine whether it is ready')
    .description('Asks the service of these settings, on this machine, whether it is ready.');
  withExamples(
    command,
    ['sendbatch health', 'PORT=8080 sendbatch health || echo not yet'],
    '0 it is ready, 1 it is not, or does not answer',
  ).action(async () => {
    const url = placeOf(loadConfig());
    const { status, text } = await ask(url).catch((error: unknown) => {
      throw new CommandError(`${url} does not answer: ${error instanceof Error ? error.message : String(error)}`);
    });
    await print(visible(text.trim()) || String(status));
    process.exitCode = status === 200 ? exit.done : exit.failed;
  });
}

function placeOf({ host, port, tls }: Config): string {
  if (port === 0) throw new CommandError('PORT=0 is any port: health cannot know which');
  const local = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host;
  return `${tls === undefined ? 'http' : 'https'}://${local.includes(':') ? `[${local}]` : local}:${port}/readyz`;
}

function ask(url: string): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const options = { timeout: patienceMs, agent: false };
    // The certificate is for the name that callers use; who listens on the own port needs no proof.
    const request = url.startsWith('https:')
      ? getSecure(url, { ...options, rejectUnauthorized: false })
      : get(url, options);
    request.on('response', (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
      response.on('error', reject);
    });
    request.on('timeout', () => request.destroy(new Error(`nothing within ${patienceMs} ms`)));
    request.on('error', reject);
  });
}
