// The CPU of Node's own HTTP servers for a call that does nothing: a lower bound for every
// service on them. The servers run in processes of their own.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { Agent, createServer as createHttpServer, request } from 'node:http';
import { connect, createServer as createHttp2Server } from 'node:http2';
import type { Server } from 'node:net';
import { cpuOfTree } from './machine.ts';
import { spread } from './measure.ts';

const calls = 20_000;
const inFlight = 64;
const requestBytes = 180;
const answer = Buffer.alloc(60);

/** Answers without looking at the request. */
const servers: Record<string, () => Server> = {
  'HTTP/2, a unary gRPC answer': () =>
    createHttp2Server().on('stream', (stream) => {
      stream.resume().on('end', () => {
        stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
        stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' })).end(answer);
      });
    }),
  'HTTP/2, the same through Node’s request and response': () =>
    createHttp2Server((_, response) => {
      const { stream } = response;
      stream.resume().on('end', () => {
        stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
        response.addTrailers({ 'grpc-status': '0' });
        response.end(answer);
      });
    }),
  'HTTP/2, a refusal in its headers': () =>
    createHttp2Server().on('stream', (stream) => {
      stream.respond({ ':status': 200, 'content-type': 'application/grpc', 'grpc-status': '14' }, { endStream: true });
      stream.resume();
    }),
  'HTTP/1.1, an answer with a length': () =>
    createHttpServer((incoming, outgoing) => {
      incoming.resume().on('end', () => {
        outgoing.writeHead(200, { 'content-type': 'application/json', 'content-length': answer.length }).end(answer);
      });
    }),
};

/** Measures each server with 64 calls in flight. */
export async function bareNode(pairs: number): Promise<string> {
  const lines: string[] = [];
  for (const name of Object.keys(servers)) {
    const figures: number[] = [];
    for (let round = 0; round < pairs; round++) figures.push(await microsecondsPerCall(name));
    lines.push(`| ${name} | ${spread(figures, 0)} |`);
  }
  return `| server | µs per call |\n|---|---|\n${lines.join('\n')}`;
}

async function microsecondsPerCall(name: string): Promise<number> {
  const child = fork(import.meta.filename, [name], { execArgv: ['--max-semi-space-size=64'] });
  const [port] = (await once(child, 'message')) as [number];
  const { ask, close } = name.startsWith('HTTP/2') ? openHttp2(port) : openHttp(port);
  const run = async (count: number) => {
    let left = count;
    await Promise.all(
      Array.from({ length: inFlight }, async () => {
        while (left-- > 0) await ask();
      }),
    );
  };
  await run(calls / 2);
  const before = cpuOfTree(child.pid ?? 0);
  await run(calls);
  const cpu = cpuOfTree(child.pid ?? 0) - before;
  close();
  const exit = once(child, 'exit');
  child.disconnect();
  await exit;
  return (cpu / calls) * 1e6;
}

function openHttp2(port: number) {
  const sessions = Array.from({ length: 8 }, () => connect(`http://127.0.0.1:${port}`));
  let next = 0;
  return {
    ask: async () => {
      const stream = sessions[next++ % sessions.length]?.request({ ':method': 'POST', ':path': '/', te: 'trailers' });
      if (stream === undefined) throw new Error('no session');
      stream.resume().end(Buffer.alloc(requestBytes));
      await once(stream, 'close');
    },
    close: () => {
      for (const session of sessions) session.close();
    },
  };
}

function openHttp(port: number) {
  const agent = new Agent({ keepAlive: true, maxSockets: inFlight });
  return {
    ask: () =>
      new Promise<void>((resolve, reject) => {
        request({ port, host: '127.0.0.1', method: 'POST', agent, headers: { 'content-length': requestBytes } })
          .on('response', (response) => response.resume().on('end', resolve))
          .on('error', reject)
          .end(Buffer.alloc(requestBytes));
      }),
    close: () => agent.destroy(),
  };
}

if (process.argv[1] === import.meta.filename) {
  const create = servers[process.argv[2] ?? ''];
  if (create === undefined) throw new Error(`no server ${process.argv[2]}`);
  const server = create();
  server.listen(0, '127.0.0.1', () => process.send?.((server.address() as { port: number }).port));
  process.once('disconnect', () => process.exit(0));
}
