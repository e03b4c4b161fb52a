import { type Client, Code, type ConnectError, createClient } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import type { Command } from 'commander';
import { BadRequestSchema } from '../../gen/google/rpc/error_details_pb.ts';
import { ChannelService } from '../../gen/sendbatch/v1/channel_service_pb.ts';
import { TemplateService } from '../../gen/sendbatch/v1/template_service_pb.ts';
import { createSendbatch, reasonOf, type Sendbatch } from '../client/index.ts';
import { callerDefaults } from '../config/index.ts';
import { CommandError } from './usage.ts';

/** Options of a command that calls the service. */
export interface ConnectOptions {
  readonly url?: string;
  readonly token?: string;
  readonly json?: boolean;
}

/** Adds the options of a command that calls the service. */
export function calling(command: Command): Command {
  return command
    .option('--url <url>', 'URL of the service (SENDBATCH_URL; default http://127.0.0.1:5001)')
    .option('--token <credential>', 'API key or JWT (SENDBATCH_TOKEN; default none)')
    .option('--json', 'print JSON: one object, or one object per line');
}

/**
 * How long a command retries once the service has answered it: long enough for a restart, an
 * upgrade, an operator on call.
 */
export const patienceMinutes = 5;
/** Short, because someone watches the terminal. */
const longestPauseMs = 3000;

/** Clients of the service, one per part of its contract. */
export interface Connection {
  readonly url: string;
  readonly client: Sendbatch;
  readonly channels: Client<typeof ChannelService>;
  readonly templates: Client<typeof TemplateService>;
}

/**
 * Creates clients of the service at --url (or SENDBATCH_URL) with the credential --token (or
 * SENDBATCH_TOKEN).
 */
export function connectTo({ url, token }: ConnectOptions): Connection {
  const defaults = callerDefaults();
  const baseUrl = (url ?? defaults.url).replace(/\/$/, '');
  if (!URL.canParse(baseUrl) || !/^https?:$/.test(new URL(baseUrl).protocol))
    throw new CommandError(
      `${url === undefined ? 'SENDBATCH_URL' : '--url'}: ${JSON.stringify(baseUrl)} is not a URL such as http://127.0.0.1:5001`,
    );
  const credential = token ?? defaults.token;
  const transport = createConnectTransport({
    baseUrl,
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
  return {
    url: baseUrl,
    client: createSendbatch({ transport, retry: { longestPauseMs, patienceMs: patienceMinutes * 60_000 } }),
    channels: createClient(ChannelService, transport),
    templates: createClient(TemplateService, transport),
  };
}

/** Describes an error of a call in one line: reason, invalid fields, what to do. */
export function describe(error: ConnectError): string {
  const cause = error.cause as { code?: string } | undefined;
  if (error.code === Code.Unavailable && /^(ECONN|ENOTFOUND|EAI_AGAIN|ETIMEDOUT)/.test(cause?.code ?? ''))
    return `cannot reach the service: ${error.rawMessage}. Check that it is running and that --url (or SENDBATCH_URL) is correct`;
  const reason = reasonOf(error);
  const fields = error.findDetails(BadRequestSchema).flatMap((each) => each.fieldViolations);
  const named = fields.map(({ field, description }) => `${field} ${description}`).join('; ');
  const text = named === '' ? error.rawMessage : named;
  const wayOut = error.code === Code.Unauthenticated ? '; set a credential with --token or SENDBATCH_TOKEN' : '';
  return `the service refused the call: ${reason === undefined ? '' : `${reason}: `}${text}${wayOut}`;
}
