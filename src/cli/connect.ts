import { createConnectTransport } from '@connectrpc/connect-node';
import { createSendbatch, type Sendbatch } from '../client/index.ts';
import { UsageError } from './usage.ts';

/** How every command that talks to a service finds it. */
export const connectOptions = {
  url: { type: 'string' },
  token: { type: 'string' },
} as const;

/** A client of the service at `--url`, or SENDBATCH_URL, with the credential of `--token`, or SENDBATCH_TOKEN. */
export function connectTo(
  { url, token }: { url?: string | undefined; token?: string | undefined },
  defaults: { url: string; token: string },
): Sendbatch {
  const baseUrl = url ?? defaults.url;
  if (!URL.canParse(baseUrl)) throw new UsageError(`--url ${baseUrl} is not a URL such as http://127.0.0.1:5001`);
  const credential = token ?? defaults.token;
  const transport = createConnectTransport({
    baseUrl: baseUrl.replace(/\/$/, ''),
    httpVersion: '1.1',
    interceptors:
      credential === ''
        ? []
        : [
            (next) => (request) => {
              request.header.set('authorization', `Bearer ${credential}`);
              return next(request);
            },
          ],
  });
  return createSendbatch({ transport });
}
