// Light readers of live tails in a process of their own, so that the service is what is measured:
// plain HTTP, which parses no more of an event than it needs.
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { Agent, get } from 'node:http';
import { type ClientHttp2Session, connect } from 'node:http2';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { timestampMs } from '@bufbuild/protobuf/wkt';
import { ChannelType, type Message } from '../gen/sendbatch/v1/message_pb.ts';
import { SubscribeRequestSchema, SubscribeResponseSchema } from '../gen/sendbatch/v1/message_service_pb.ts';

/** gRPC and Connect over HTTP/2, Server-Sent Events over HTTP/1.1. */
export type ReadProtocol = 'grpc' | 'connect' | 'sse';

/** One reader per channel id. */
export interface ReadersJob {
  readonly url: string;
  readonly protocol: ReadProtocol;
  readonly channelIds: readonly string[];
  /**
   * When a message began, for its delay: `payload` is the time as a text, `accepted` the message's
   * own time.
   */
  readonly begin: 'payload' | 'accepted';
}

/** Open readers, each caught up. */
export interface Readers {
  /** Delays of the messages received so far, in ms; forgets them. */
  take(): Promise<number[]>;
  close(): Promise<void>;
}

/** Milliseconds since 1970, comparable between processes. */
export const now = (): number => performance.timeOrigin + performance.now();

export async function openReaders(job: ReadersJob): Promise<Readers> {
  const child = fork(import.meta.filename, [JSON.stringify(job)], { serialization: 'advanced' });
  await answerOf(child);
  return {
    async take() {
      const answer = answerOf(child);
      child.send('take');
      return (await answer) as number[];
    },
    async close() {
      const exit = once(child, 'exit');
      child.disconnect();
      await exit;
    },
  };
}

async function answerOf(child: ChildProcess): Promise<unknown> {
  return await new Promise((resolve, reject) => {
    const onExit = (code: number | null) => reject(new Error(`the readers ended with ${code}`));
    child.once('exit', onExit);
    child.once('message', (message) => {
      child.off('exit', onExit);
      resolve(message);
    });
  });
}

/** Below the service's limit on streams per connection. */
const streamsEach = 200;
/** Opened at once: more would wait in the service's queue. */
const openedAtOnce = 50;

async function read({ url, protocol, channelIds, begin }: ReadersJob): Promise<void> {
  let delays: number[] = [];
  const onMessage = (payload: Buffer, acceptedAt: number) =>
    delays.push(now() - (begin === 'payload' ? Number(payload.toString()) : acceptedAt));
  const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY });
  let session: ClientHttp2Session | undefined;
  let opening: Promise<void>[] = [];
  for (const [index, channelId] of channelIds.entries()) {
    if (protocol === 'sse') opening.push(openSse(url, { channelId, agent, onMessage }));
    else {
      if (index % streamsEach === 0) session = connect(url, { settings: { initialWindowSize: 1 << 20 } });
      opening.push(openStream(session as ClientHttp2Session, { protocol, channelId, onMessage }));
    }
    if (opening.length < openedAtOnce) continue;
    await Promise.all(opening);
    opening = [];
  }
  await Promise.all(opening);
  process.on('message', () => {
    process.send?.(delays);
    delays = [];
  });
  process.once('disconnect', () => process.exit(0));
  process.send?.('ready');
}

type OnMessage = (payload: Buffer, acceptedAt: number) => void;

/** Resolves when the reader has caught up. */
function openStream(
  session: ClientHttp2Session,
  { protocol, channelId, onMessage }: { protocol: 'grpc' | 'connect'; channelId: string; onMessage: OnMessage },
): Promise<void> {
  const stream = session.request({
    ':method': 'POST',
    ':path': '/sendbatch.v1.MessageService/Subscribe',
    'content-type': `application/${protocol}+proto`,
    te: 'trailers',
  });
  const request = create(SubscribeRequestSchema, { channels: [{ channelId, channelType: ChannelType.GROUP }] });
  stream.end(envelope(toBinary(SubscribeRequestSchema, request)));
  return new Promise((resolve, reject) => {
    stream.once('error', reject).once('end', () => reject(new Error('a stream ended')));
    let rest: Buffer = Buffer.alloc(0);
    stream.on('data', (chunk: Buffer) => {
      rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
      for (;;) {
        const end = rest.length < 5 ? 5 : 5 + rest.readUInt32BE(1);
        if (rest.length < end) return;
        const { frame } = fromBinary(SubscribeResponseSchema, rest.subarray(5, end));
        rest = rest.subarray(end);
        if (frame.case === 'caughtUp') resolve();
        if (frame.case === 'message') onMessage(Buffer.from(frame.value.payload), acceptedAtOf(frame.value));
      }
    });
  });
}

const acceptedAtOf = ({ timestamp }: Message) => (timestamp === undefined ? 0 : timestampMs(timestamp));

/** Wraps a message as gRPC and Connect do. */
export function envelope(message: Uint8Array): Buffer {
  const frame = Buffer.alloc(5 + message.length);
  frame.writeUInt32BE(message.length, 1);
  frame.set(message, 5);
  return frame;
}

function openSse(
  url: string,
  { channelId, agent, onMessage }: { channelId: string; agent: Agent; onMessage: OnMessage },
): Promise<void> {
  return new Promise((resolve, reject) => {
    get(`${url}/v1/channels/${ChannelType.GROUP}/${channelId}/events`, { agent }, (response) => {
      let text = '';
      response.once('end', () => reject(new Error(`an event stream ended (${response.statusCode})`)));
      response.on('data', (chunk: Buffer) => {
        text += chunk.toString();
        const events = text.split('\n\n');
        text = events.pop() ?? '';
        for (const event of events) {
          if (event.includes('event: caught_up')) resolve();
          if (!event.includes('event: message')) continue;
          const message = JSON.parse(event.slice(event.indexOf('data: ') + 6)) as {
            payload: string;
            timestamp: string;
          };
          onMessage(Buffer.from(message.payload, 'base64'), Date.parse(message.timestamp));
        }
      });
    }).once('error', reject);
  });
}

if (process.argv[1] === import.meta.filename) await read(JSON.parse(process.argv[2] ?? '') as ReadersJob);
