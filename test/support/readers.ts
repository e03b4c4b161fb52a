import http from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';
import { createClient, type Transport } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from '@connectrpc/connect-node';
import { MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';

interface Target {
  readonly url: string;
  readonly channelId: string;
  readonly ca?: string;
}

/** A reader of a channel that has its first frame and then stops reading by itself. */
export interface Reader {
  close(): void;
}

/** Every combination of protocol and HTTP version on which a channel can be read. */
export const readerNames = [
  'Server-Sent Events, HTTP/1.1',
  'Server-Sent Events, HTTP/2',
  'gRPC',
  'gRPC-Web, HTTP/1.1',
  'gRPC-Web, HTTP/2',
  'Connect, HTTP/1.1',
  'Connect, HTTP/2',
] as const;

/** Opens a reader and waits for its first frame. */
export async function openReader(name: (typeof readerNames)[number], target: Target): Promise<Reader> {
  if (name === 'Server-Sent Events, HTTP/1.1') return await overHttp1(target);
  if (name === 'Server-Sent Events, HTTP/2') return await overHttp2(target);
  const abort = new AbortController();
  const { url: baseUrl, channelId, ca } = target;
  const nodeOptions = ca === undefined ? {} : { ca };
  const httpVersion = name.endsWith('/2') ? '2' : '1.1';
  const transport: Transport =
    name === 'gRPC'
      ? createGrpcTransport({ baseUrl, nodeOptions })
      : name.startsWith('gRPC-Web')
        ? createGrpcWebTransport({ baseUrl, httpVersion, nodeOptions })
        : createConnectTransport({ baseUrl, httpVersion, nodeOptions });
  const client = createClient(MessageService, transport);
  const frames = client.subscribe({ channels: [{ channelId, channelType: 2 }] }, { signal: abort.signal });
  await frames[Symbol.asyncIterator]().next();
  return { close: () => abort.abort() };
}

const pathOf = ({ channelId }: Target) => `/v1/channels/2/${channelId}/events`;

async function overHttp1(target: Target): Promise<Reader> {
  const { get, Agent } = target.url.startsWith('https') ? https : http;
  const { promise, resolve, reject } = Promise.withResolvers<http.IncomingMessage>();
  const request = get(
    target.url + pathOf(target),
    { agent: new Agent(), ...(target.ca && { ca: target.ca }) },
    resolve,
  );
  request.on('error', reject);
  const response = await promise;
  response.on('error', () => {});
  return { close: () => request.destroy() };
}

async function overHttp2(target: Target): Promise<Reader> {
  const session = http2.connect(target.url, { ...(target.ca && { ca: target.ca }) });
  const stream = session.request({ ':path': pathOf(target) });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  for (const each of [session, stream]) each.on('error', reject);
  stream.once('response', () => resolve());
  await promise;
  return { close: () => session.destroy() };
}

// Runs as a process of its own for a test that kills it: all readers of the named channels.
const [, script = '', url, ...channels] = process.argv;
if (import.meta.filename === script && url !== undefined) {
  const openAll = async () => {
    for (const name of readerNames) for (const channelId of channels) await openReader(name, { url, channelId });
    process.send?.('open');
  };
  void openAll();
}
