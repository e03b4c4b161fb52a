import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import pg from 'pg';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { type ServiceProcess, spawnService } from '../support/process.ts';
import { until } from '../support/watch.ts';

describe('a service whose connections reached a standby', () => {
  let database: TestDatabase;
  let service: ServiceProcess;
  before(async () => {
    database = await createDatabase();
    service = await spawnService({ DATABASE_URL: database.url, RATE_CALLER: '1000000/1s', RATE_STORE: 'postgres' });
  });
  after(async () => {
    await service.end('SIGTERM');
    await database.drop();
  });

  const ask = async (text: string) => {
    const client = new pg.Client({
      connectionString: database.url,
      // The service's sessions are on a standby; the test's own can write.
      options: '-c default_transaction_read_only=off',
    });
    await client.connect();
    try {
      return await client.query(text);
    } finally {
      await client.end();
    }
  };
  /** Opens new sessions on a standby or on a primary; open sessions stay as they are. */
  const failOver = async (readOnly: boolean) => {
    const name = new URL(database.url).pathname.slice(1);
    await ask(
      `alter database ${name} ${readOnly ? 'set default_transaction_read_only = on' : 'reset default_transaction_read_only'}`,
    );
  };
  const endSessions = () =>
    ask(
      `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`,
    );

  let count = 0;
  const send = async (channel = 'g') => {
    const message = {
      from_uid: 'u',
      channel_id: channel,
      channel_type: 2,
      payload: 'SGk=',
      client_msg_no: String(count++),
    };
    const answer = await fetch(`${service.url}/message/sendbatch`, { method: 'POST', body: JSON.stringify([message]) });
    await answer.text();
    return answer.status;
  };
  const ready = async () => {
    const answer = await fetch(`${service.url}/readyz?verbose`);
    return { status: answer.status, text: await answer.text() };
  };

  test('a service connected to a standby is not ready, and writes again by itself once the server can', async () => {
    assert.equal(await send(), 200);
    await failOver(true);
    await endSessions();
    await until('it is not ready', async () => (await ready()).status === 503);
    assert.match((await ready()).text, /read-only/);
    for (const status of await Promise.all(Array.from({ length: 20 }, () => send()))) assert.equal(status, 503);

    await failOver(false);
    // The test ends no session here: the service itself leaves the standby's sessions.
    await until('it is ready', async () => (await ready()).status === 200);
    await until('it writes', async () => (await send()) === 200);
    for (let call = 0; call < 10; call++) assert.equal(await send(`g${call}`), 200);
    // A pooled connection that was idle meanwhile is found to be read-only at its next use.
    let batchId = '';
    await until('a batch is submitted', async () => {
      const submitted = await fetch(`${service.url}/v1/batches`, {
        method: 'POST',
        body: JSON.stringify({ messages: [{ from_uid: 'u', channel_id: 'g', channel_type: 2, payload: 'SGk=' }] }),
      });
      const submission = await submitted.text();
      [, batchId = ''] = /"batch_id":\s*"([^"]+)"/.exec(submission) ?? [];
      assert.ok(batchId !== '' || submitted.status === 503, submission);
      return batchId !== '';
    });
    await until('its batch is done', async () => {
      const answer = await fetch(`${service.url}/v1/batches/${batchId}`);
      return /"accepted_count":\s*1\b/.test(await answer.text());
    });
  });

  test('a service connected to a standby logs it in a few short lines', () => {
    const lines = service
      .output()
      .split('\n')
      .filter((line) => line.startsWith('{') && /^(warn|error|fatal)$/.test(JSON.parse(line).level));
    assert.ok(lines.length > 0);
    for (const line of lines) assert.ok(line.length < 700, line);
    const busy = lines.filter((line) => line.includes('"call refused, store busy"'));
    assert.ok(busy.length >= 1 && busy.length <= 8, busy.join('\n'));
    assert.match(busy[0] ?? '', /"cause":"[^"]*read-only transaction \(25006\)"/);
  });
});
