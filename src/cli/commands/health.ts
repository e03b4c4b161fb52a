import { get } from 'node:http';
import { get as getSecure } from 'node:https';
import type { Command } from 'commander';
import { type Config, loadConfig } from '../../config/index.ts';
import { print, visible } from '../output/output.ts';
import { CommandError, exit, withExamples } from '../usage.ts';

/** Below the timeout of the image's HEALTHCHECK. */
const timeoutMs = 2500;

/** Adds the command for health checks in an image without shell and curl. */
export function addHealth(program: Command): void {
  const command = program
    .command('health')
    .summary('check whether the service on this machine is ready')
    .description('Checks whether the service with these settings on this machine is ready (GET /readyz).');
  withExamples(
    command,
    ['sendbatch health', 'PORT=8080 sendbatch health || echo not ready'],
    '0 ready, 1 not ready, or no answer',
  ).action(async () => {
    const url = urlOf(loadConfig());
    const { status, text } = await ask(url).catch((error: unknown) => {
      throw new CommandError(`${url} does not answer: ${error instanceof Error ? error.message : String(error)}`);
    });
    await print(visible(text.trim()) || String(status));
    process.exitCode = status === 200 ? exit.done : exit.failed;
  });
}

function urlOf({ host, port, tls }: Config): string {
  if (port === 0) throw new CommandError('PORT=0 means a random port, which health cannot know');
  const local = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host;
  return `${tls === undefined ? 'http' : 'https'}://${local.includes(':') ? `[${local}]` : local}:${port}/readyz`;
}

function ask(url: string): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const options = { timeout: timeoutMs, agent: false };
    // The certificate is for the public name. A process on our own port needs no proof of identity.
    const request = url.startsWith('https:')
      ? getSecure(url, { ...options, rejectUnauthorized: false })
      : get(url, options);
    request.on('response', (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
      response.on('error', reject);
    });
    request.on('timeout', () => request.destroy(new Error(`no answer within ${timeoutMs} ms`)));
    request.on('error', reject);
  });
}
