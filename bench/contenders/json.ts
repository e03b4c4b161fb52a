import { connect, type Socket } from 'node:net';
import type { Contender, ContenderJob } from '../contender.ts';
import { batchesOf, type Work } from '../workload.ts';
import { dryRunsInFlight, inParallel } from './grpc.ts';

/**
 * Hand-written JSON array route over HTTP/1.1 keep-alive connections: every request is encoded in
 * advance, and answers are only counted.
 */
export async function openJson({ url, workload, inFlight }: ContenderJob): Promise<Contender> {
  const { hostname, port, host } = new URL(url);
  const requestOf = (messages: Work[], query: string) => {
    const body = Buffer.from(JSON.stringify(messages.map(jsonOf)));
    const head = `POST /message/sendbatch${query} HTTP/1.1\r\nhost: ${host}\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`;
    return Buffer.concat([Buffer.from(head), body]);
  };
  const batches = batchesOf(workload);
  const requests = batches.map((messages) => requestOf(messages, ''));
  const sockets: Socket[] = [];
  const free: Socket[] = [];
  const open = (count: number) => {
    const more = Array.from({ length: count }, () => connect(Number(port), hostname).setNoDelay(true));
    sockets.push(...more);
    free.push(...more);
  };
  open(dryRunsInFlight);
  const ask = async (request: Buffer) => {
    const socket = free.pop();
    if (socket === undefined) throw new Error('more under way than there are connections');
    socket.write(request);
    const answer = await answerOf(socket);
    free.push(socket);
    return answer;
  };
  await inParallel(batches, async (messages) => ask(requestOf(messages, '?validate_only=true')));
  // Connects only now: the service closes silent connections.
  open(Math.max(0, inFlight - dryRunsInFlight));
  return {
    sends: requests.length,
    async send(index) {
      const request = requests[index];
      if (request === undefined) throw new Error(`no batch ${index}`);
      const answer = await ask(request);
      const results = answer.split('"message_id":').length - 1;
      const duplicates = answer.split('"duplicate":true').length - 1;
      return { stored: results - duplicates, duplicates };
    },
    async close() {
      for (const socket of sockets) socket.destroy();
    },
  };
}

function jsonOf(work: Work): object {
  return {
    header: { no_persist: 0, red_dot: 1, sync_once: 0 },
    client_msg_no: work.clientMsgNo,
    from_uid: work.fromUid,
    channel_id: work.channelId,
    channel_type: work.channelType,
    expire: 0,
    payload: Buffer.from(work.payload).toString('base64'),
  };
}

/** Reads one answer with a Content-Length; returns its body. */
async function answerOf(socket: Socket): Promise<string> {
  return await new Promise((resolve, reject) => {
    let text = '';
    const done = (end: () => void) => {
      socket.off('data', onData).off('error', onEnd).off('close', onEnd);
      end();
    };
    const onEnd = (error?: unknown) =>
      done(() => reject(error instanceof Error ? error : new Error('the connection ended')));
    const onData = (chunk: Buffer) => {
      text += chunk.toString('latin1');
      const head = text.indexOf('\r\n\r\n');
      if (head === -1) return;
      const length = Number(/content-length: (\d+)/i.exec(text)?.[1]);
      if (text.length < head + 4 + length) return;
      if (!text.startsWith('HTTP/1.1 200')) return done(() => reject(new Error(text.slice(0, 300))));
      done(() => resolve(text.slice(head + 4)));
    };
    socket.on('data', onData).on('error', onEnd).on('close', onEnd);
  });
}
