import { connect } from 'node:http2';
import { create, toBinary } from '@bufbuild/protobuf';
import { type ChannelType, HeaderSchema, MessageDraftSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import { SendBatchRequestSchema } from '../../gen/sendbatch/v1/message_service_pb.ts';
import type { Contender, ContenderJob } from '../contender.ts';
import { batchesOf, type Work } from '../workload.ts';
import { countOf } from './counts.ts';
import { inParallel } from './http.ts';

/** The gRPC status of a batch that may be retried. */
const unavailable = '14';

/**
 * Hand-written gRPC over HTTP/2: every request is encoded in advance and answers are only counted,
 * so that the server is what is measured. (h2load repeats one body, which makes every message after
 * the first batch a duplicate.)
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
      // The status is in the trailer after an answer; otherwise in the only headers.
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
  // Warms up the service and its cache of channels, without storing.
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
