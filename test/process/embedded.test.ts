import assert from 'node:assert/strict';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { temporaryFolder } from '../support/cluster.ts';
import { spawnCommand, spawnService } from '../support/process.ts';
import { patienceMs, until } from '../support/watch.ts';

test('a service restarts its embedded PostgreSQL after a kill: sends and tails go on, and the log stays short', async (context) => {
  const folder = temporaryFolder('supervised-service');
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  const service = await spawnService({ DATA_DIR: join(folder, 'data') });
  const post = async (clientMsgNo: string) => {
    const message = { from_uid: 'u', channel_id: 'g', channel_type: 2, payload: 'SGk=', client_msg_no: clientMsgNo };
    const answer = await fetch(`${service.url}/message/sendbatch`, { method: 'POST', body: JSON.stringify([message]) });
    await answer.text();
    return answer.status;
  };
  assert.equal(await post('before'), 200);

  const tail = new AbortController();
  const read: string[] = [];
  const reading = follow(`${service.url}/v1/channels/2/g/events?after_seq=0`, read, tail.signal);
  await until('the tail has begun', () => read.length === 1);

  const lock = readFileSync(join(folder, 'data/postgres/postmaster.pid'), 'utf8');
  process.kill(Number(lock.split('\n', 1)[0]), 'SIGKILL');
  await until('a send is taken again', async () => (await post('after')) === 200);
  await until('the tail has it', () => read.length === 2);
  assert.deepEqual(read, ['before', 'after']);
  tail.abort();
  await reading;
  assert.equal(await service.end('SIGTERM'), 0, service.output());

  const lines = service
    .output()
    .split('\n')
    .filter((line) => line.startsWith('{'));
  const saying = (words: string) => lines.filter((line) => JSON.parse(line).msg === words).length;
  assert.equal(saying('embedded PostgreSQL exited, restarting it'), 1);
  assert.equal(saying('embedded PostgreSQL is running again'), 1);
  for (const line of lines) assert.ok(line.length < 700, line);
});

test('a SIGTERM while the workers start leaves no PostgreSQL running', async (context) => {
  const folder = temporaryFolder('workers-broken-off');
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  const lock = join(folder, 'data/postgres/postmaster.pid');
  const { child, exit, output } = spawnCommand({ DATA_DIR: join(folder, 'data'), WORKERS: '2' }, []);
  await until('PostgreSQL starts', () => existsSync(lock));
  child.kill('SIGTERM');
  assert.equal(await exit, 0, output());
  assert.equal(existsSync(lock), false);
});

/** Follows as an EventSource does: resumes after the last id when the stream ends. */
async function follow(url: string, read: string[], signal: AbortSignal): Promise<void> {
  let lastId: string | undefined;
  const end = performance.now() + patienceMs;
  while (!signal.aborted && performance.now() < end) {
    try {
      const headers = { accept: 'text/event-stream', ...(lastId === undefined ? {} : { 'last-event-id': lastId }) };
      const answer = await fetch(url, { headers, signal });
      let text = '';
      for await (const chunk of answer.body ?? []) {
        text += Buffer.from(chunk).toString();
        for (let at = text.indexOf('\n\n'); at !== -1; at = text.indexOf('\n\n')) {
          const event = text.slice(0, at);
          text = text.slice(at + 2);
          lastId = /^id: ?(.*)$/m.exec(event)?.[1] ?? lastId;
          const clientMsgNo = /"client_msg_no":"(\w+)"/.exec(event)?.[1];
          if (clientMsgNo !== undefined) read.push(clientMsgNo);
        }
      }
    } catch {
      // The stream was cut: reconnects until stopped.
    }
  }
}
