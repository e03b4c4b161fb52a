import { connect } from 'node:http2';
import { create, toBinary } from '@bufbuild/protobuf';
import { type ChannelType, HeaderSchema, MessageDraftSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import { SendBatchRequestSchema } from '../../gen/sendbatch/v1/message_service_pb.ts';
import type { Contender, ContenderJob } from '../contender.ts';
import { batchesOf, type Work } from '../workload.ts';
import { countOf } from './counts.ts';

/** Of a batch that is refused for now. */
const unavailable = '14';

/**
 * gRPC by hand over HTTP/2: every request was encoded beforehand, an answer is only counted, so that what is measured is the server. (h2load sends one body
 * for ever: then every message but the first batch's is a duplicate.)
 */
export async function openGrpc({ url, workload, sessions = 2, mayRefuse = false }: ContenderJob): Promise<Contender> {
  const frames = batchesOf(workload).map((works) => frameOf(works, false));
  const rehearsals = batchesOf(workload).map((works) => frameOf(works, true));
  const open = Array.from({ length: sessions }, () =>
    connect(url, { settings: { initialWindowSize: 1 << 20 } }, (session) => session.setLocalWindowSize(1 << 24)),
  );
  const ask = async (frame: Buffer, index: number) => {
    const stream = open[index % sessions]?.request({
      ':method': 'POST',
      ':path': '/sendbatch.v1.MessageService/SendBatch',
      'content-type': 'application/grpc+proto',
      te: 'trailers',
    });
    if (stream === undefined) throw new Error('no session');
    stream.end(frame);
    return await new Promise<Buffer | undefined>((resolve, reject) => {
      const chunks: Buffer[] = [];
      let status: unknown;
      stream.on('data', (chunk: Buffer) => chunks.push(chunk));
      // With an answer in the trailer; alone, in the only headers.
      for (const which of ['response', 'trailers'] as const)
        stream.on(which, (headers: { 'grpc-status'?: string }) => (status = headers['grpc-status'] ?? status));
      stream.on('error', reject);
      stream.on('end', () =>
        status === '0'
          ? resolve(Buffer.concat(chunks))
          : mayRefuse && status === unavailable
            ? resolve(undefined)
            : reject(new Error(`grpc-status ${String(status)}`)),
      );
    });
  };
  // Warms the service up, and its cache of channels, without storing.
  await inParallel(rehearsals, ask);
  return {
    sends: frames.length,
    async send(index) {
      const frame = frames[index];
      if (frame === undefined) throw new Error(`no batch ${index}`);
      const answer = await ask(frame, index);
      return answer === undefined ? 'refused' : countOf(answer.subarray(5), mayRefuse);
    },
    async close() {
      for (const session of open) session.close();
    },
  };
}

function frameOf(works: readonly Work[], validateOnly: boolean): Buffer {
  const messages = works.map(({ header, clientMsgNo, fromUid, channelId, channelType, payload }) =>
    create(MessageDraftSchema, {
      header: create(HeaderSchema, { ...header }),
      clientMsgNo,
      fromUid,
      channelId,
      channelType: channelType as ChannelType,
      payload: Uint8Array.from(payload),
    }),
  );
  const message = toBinary(SendBatchRequestSchema, create(SendBatchRequestSchema, { messages, validateOnly }));
  const frame = Buffer.allocUnsafe(5 + message.length);
  frame[0] = 0;
  frame.writeUInt32BE(message.length, 1);
  frame.set(message, 5);
  return frame;
}

/** How many requests of a rehearsal are under way at once. */
export const rehearsing = 16;

/** Sends all. */
export async function inParallel<T>(
  all: readonly T[],
  send: (one: T, index: number) => Promise<unknown>,
): Promise<void> {
  let next = 0;
  const worker = async () => {
    for (let index = next++; index < all.length; index = next++) await send(all[index] as T, index);
  };
  await Promise.all(Array.from({ length: rehearsing }, worker));
}
