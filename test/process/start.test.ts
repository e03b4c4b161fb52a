import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, rmSync } from 'node:fs';
import http from 'node:http';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { ConfigError, loadConfig } from '../../src/config/index.ts';
import { temporaryFolder } from '../support/cluster.ts';
import { createDatabase } from '../support/database.ts';
import { openFaultProxy } from '../support/fault-proxy.ts';
import { runToEnd, type ServiceProcess, spawnCommand, spawnService } from '../support/process.ts';
import { assertSound, readAll } from '../support/verify.ts';
import { until, untilOneWaitsFor } from '../support/watch.ts';

const work = temporaryFolder('start');
const pem = (name: string) => join(import.meta.dirname, '../support/certificates', name);
after(() => rmSync(work, { recursive: true, force: true }));

describe('a start that cannot succeed ends with one clear line and a non-zero exit code', () => {
  const rows: [string, Record<string, string>, RegExp][] = [
    ['a port that is not a number', { PORT: 'http' }, /PORT: /],
    [
      'a database without a server',
      { DATABASE_URL: 'postgres://u:secret@127.0.0.1:1/x', DATABASE_WAIT: '1' },
      /database cannot be reached: .*ECONNREFUSED.*DATABASE_URL/,
    ],
    [
      'a database CA that does not exist',
      { DATABASE_URL: 'postgres://u:secret@127.0.0.1:1/x?sslmode=verify-full&sslrootcert=/none.pem' },
      /DATABASE_URL cannot be used: ENOENT.*none\.pem/,
    ],
    [
      'a data folder that is a file',
      { DATA_DIR: join(import.meta.dirname, 'start.test.ts') },
      /data folder .* cannot be used/,
    ],
    ['a data folder that cannot be created', { DATA_DIR: '/proc/x' }, /data folder \/proc\/x cannot be used: ENOENT/],
  ];
  for (const [what, env, text] of rows) {
    test(`startup fails with one line and a non-zero exit code for ${what}`, async () => {
      const { code, output } = await runToEnd(env, [], work);
      assert.equal(code, 1, output);
      assert.match(output, text);
      assert.equal(output.trim().split('\n').length, 1, output);
      assert.doesNotMatch(output, /secret/);
    });
  }

  // The process above shows one of them: every invalid setting ends a start in the same way.
  const settings: [string, Record<string, string>, RegExp][] = [
    ['a port out of range', { PORT: '70000' }, /PORT: .*65535/],
    ['a public address without authentication', { HOST: '0.0.0.0' }, /HOST=0\.0\.0\.0 .*AUTH=off/],
    ['an invalid AUTH', { AUTH: 'no' }, /AUTH: /],
    ['a key without a certificate', { TLS_KEY: join(work, 'key') }, /TLS_KEY and TLS_CERT/],
    [
      'a certificate that does not exist',
      { TLS_KEY: join(work, 'key'), TLS_CERT: join(work, 'cert') },
      /TLS_KEY=.* cannot be read/,
    ],
    [
      'a key of another certificate',
      { TLS_KEY: pem('client-key.pem'), TLS_CERT: pem('localhost-cert.pem') },
      /TLS_KEY=.* is not the key of the certificate in TLS_CERT=/,
    ],
    [
      'a key file without a key',
      { TLS_KEY: import.meta.filename, TLS_CERT: pem('localhost-cert.pem') },
      /TLS_KEY=.* contains no PEM private key/,
    ],
    [
      'a certificate file without a certificate',
      { TLS_KEY: pem('localhost-key.pem'), TLS_CERT: pem('localhost-key.pem') },
      /TLS_CERT=.* contains no PEM certificate/,
    ],
    [
      'authorities that are none',
      { TLS_KEY: pem('localhost-key.pem'), TLS_CERT: pem('localhost-cert.pem'), TLS_CLIENT_CA: import.meta.filename },
      /TLS_CLIENT_CA=.* contains no PEM certificate/,
    ],
    ['an origin without a scheme', { ALLOWED_ORIGINS: 'app.example.com' }, /ALLOWED_ORIGINS: .*https:/],
    [
      'a database of another kind',
      { DATABASE_URL: 'mysql://root:secret@db/x' },
      /DATABASE_URL: must start with postgres/,
    ],
    ['a timeout of 0', { REQUEST_TIMEOUT: '0' }, /REQUEST_TIMEOUT: .*from 1 to/],
  ];
  for (const [what, env, text] of settings) {
    test(`the configuration is refused in one line without secrets for ${what}`, () => {
      assert.throws(
        () => loadConfig(env),
        (error) => {
          assert.ok(error instanceof ConfigError);
          assert.match(error.message, text);
          assert.doesNotMatch(error.message, /secret|\n/);
          return true;
        },
      );
    });
  }

  test('startup fails with one line for a port in use', async (context) => {
    const holder = createServer();
    await new Promise<void>((resolve) => holder.listen(0, '127.0.0.1', resolve));
    context.after(() => holder.close());
    const { port } = holder.address() as { port: number };
    const database = await createDatabase();
    context.after(() => database.drop());
    const untouched = join(work, 'untouched');
    for (const env of [
      { DATABASE_URL: database.url },
      { DATA_DIR: untouched },
      { DATA_DIR: untouched, WORKERS: '2' },
    ]) {
      const { code, output } = await runToEnd({ PORT: String(port), ...env });
      assert.equal(code, 1);
      assert.match(output, new RegExp(`^sendbatch: 127.0.0.1:${port} is in use: .*PORT[^\n]*\n$`));
      assert.equal(existsSync(untouched), false);
    }
  });

  test('startup fails with one line for a pooler that rejects the timeouts', async (context) => {
    const words = ['SFATAL', 'C08P01', 'Munsupported startup parameter: statement_timeout', '', ''].join('\0');
    const refusal = Buffer.concat([Buffer.from('E'), Buffer.alloc(4), Buffer.from(words)]);
    refusal.writeInt32BE(refusal.length - 1, 1);
    const pooler = createServer((socket) => socket.on('error', () => {}).once('data', () => socket.end(refusal)));
    await new Promise<void>((resolve) => pooler.listen(0, '127.0.0.1', resolve));
    context.after(() => pooler.close());
    const { port } = pooler.address() as { port: number };
    const { code, output } = await runToEnd({ DATABASE_URL: `postgres://u:secret@127.0.0.1:${port}/x` });
    assert.equal(code, 1);
    assert.match(
      output,
      /^sendbatch: the database cannot be reached: .*PgBouncer needs ignore_startup_parameters = .*\n$/,
    );
    assert.doesNotMatch(output, /secret/);
  });

  test('startup fails with one line for an unknown command', async () => {
    const { code, output } = await runToEnd({}, ['serv']);
    assert.equal(code, 1);
    assert.match(output, /^sendbatch: unknown command 'serv' \(Did you mean serve\?\)/);
  });
});

describe('a start that succeeds', () => {
  test('startup prints its address, its database and how to send, and a restart keeps what was sent', async () => {
    const folder = join(work, 'kept');
    const env = { DATA_DIR: folder, LOG_FORMAT: 'pretty' };
    const draft = '[{"from_uid":"system","channel_id":"g","channel_type":2,"payload":"SGk="}]';
    for (const seq of [1, 2]) {
      const service = await spawnService({ ...env, LOG_FORMAT: 'auto' });
      const response = await fetch(`${service.url}/message/sendbatch`, { method: 'POST', body: draft });
      assert.equal(((await response.json()) as { message_seq: number }[])[0]?.message_seq, seq);
      assert.match(service.output(), /listens on http:\/\/127\.0\.0\.1:\d+/);
      assert.ok(service.output().includes(`embedded, in ${folder}`), service.output());
      assert.match(service.output(), /curl -X POST http/);
      assert.equal(await service.end(seq === 1 ? 'SIGTERM' : 'SIGINT'), 0, service.output());
    }
  });

  test('a stop during startup leaves no PostgreSQL running', async () => {
    const lock = join(work, 'early', 'postgres', 'postmaster.pid');
    const { child, exit, output } = spawnCommand({ DATA_DIR: join(work, 'early') }, []);
    await until('PostgreSQL is launched', () => existsSync(lock));
    child.kill('SIGINT');
    assert.equal(await exit, 0, output());
    assert.match(output(), /"stopped"/);
    assert.equal(existsSync(lock), false, output());
  });

  test('four instances that start on one empty database create the schema once', async () => {
    const database = await createDatabase('empty');
    const instances = await Promise.all(Array.from({ length: 4 }, () => spawnService({ DATABASE_URL: database.url })));
    const migrated = instances.filter((each) => each.output().includes('"migrations"'));
    assert.equal(migrated.length, 1);
    for (const code of await Promise.all(instances.map((each) => each.end('SIGTERM')))) assert.equal(code, 0);
    await database.drop();
  });

  test('the command prints its settings, version and help', async () => {
    const settings = await runToEnd({}, ['config']);
    assert.equal(settings.code, 0);
    for (const name of ['PORT', 'HOST', 'DATABASE_URL', 'DATA_DIR', 'LOG_LEVEL', 'AUTH'])
      assert.match(settings.output, new RegExp(`^${name} `, 'm'));
    assert.match((await runToEnd({}, ['version'])).output, /^\d+\.\d+\.\d+\n$/);
    assert.equal((await runToEnd({}, ['help'])).code, 0);
  });

  test('a stop by SIGTERM finishes the call in flight and refuses new ones', async () => {
    const database = await createDatabase();
    const service = await spawnService({ DATABASE_URL: database.url });
    const holder = new pg.Client({ connectionString: database.url });
    await holder.connect();
    const send = (key: string) =>
      new Promise<number | undefined>((resolve, reject) => {
        const request = http.request(`${service.url}/message/sendbatch`, { method: 'POST' }, (response) => {
          response.resume();
          resolve(response.statusCode);
        });
        request.on('error', reject);
        request.end(`[{"from_uid":"u","channel_id":"g","channel_type":2,"payload":"SGk=","client_msg_no":"${key}"}]`);
      });
    await send('1');
    await holder.query('begin');
    await holder.query('select from sendbatch.channel_head for update');
    const inFlight = send('2');
    await untilOneWaitsFor(holder);
    const ended = service.end('SIGTERM');
    // It stops accepting connections at once; until then a new call is still answered.
    await until('it stops', () => service.output().includes('"stopping'));
    await holder.query('rollback');
    assert.equal(await inFlight, 200);
    assert.equal(await ended, 0);
    await assert.rejects(send('3'), /ECONNREFUSED/);
    await holder.end();
    await database.drop();
  });

  test('a defect that ends the process is a line of its log', async () => {
    const database = await createDatabase();
    const defect = "process.on('SIGUSR2', () => Promise.reject(new Error('a defect')))";
    const service = await spawnService({
      DATABASE_URL: database.url,
      NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(defect)}`,
    });
    assert.equal(await service.end('SIGUSR2'), 1);
    const lines = service.output().split('\n');
    const { level, err } = JSON.parse(lines.find((line) => line.includes('"msg":"crashed"')) ?? '{}');
    assert.deepEqual([level, err?.message], ['error', 'a defect']);
    await database.drop();
  });
});

function workersOf({ child }: ServiceProcess): number[] {
  const listed = execFileSync('ps', ['-o', 'pid=', '--ppid', String(child.pid)], { encoding: 'utf8' });
  return listed.trim().split(/\s+/).map(Number);
}

describe('a service with WORKERS=2', () => {
  test('two workers are two instances on one port, without gaps in the numbers; a killed one is replaced, and a stop ends both', async () => {
    const database = await createDatabase();
    const service = await spawnService({ DATABASE_URL: database.url, WORKERS: '2' });
    const send = async (count: number) => {
      for (let index = 0; index < count; index++) {
        // One connection per call: connections are distributed over the workers in turn.
        await fetch(`${service.url}/message/sendbatch`, {
          method: 'POST',
          headers: { connection: 'close' },
          body: '[{"from_uid":"u","channel_id":"g","channel_type":2,"payload":"SGk="}]',
        }).then((response) => assert.equal(response.status, 200));
      }
    };
    await send(10);
    const pids = workersOf(service);
    assert.equal(pids.length, 2);
    process.kill(pids[0] ?? 0, 'SIGKILL');
    await until('it is known', () => service.output().includes('worker exited, starting a replacement'));
    await send(10);
    assert.equal(await service.end('SIGTERM'), 0, service.output());
    await assertSound(database.url);
    assert.deepEqual(
      (await readAll(database.url)).map((row) => row.seq),
      Array.from({ length: 20 }, (_, index) => index + 1),
    );
    await database.drop();
  });

  test('a worker that is already stopping does not end at once when Ctrl-C on a terminal reaches every process', async () => {
    const database = await createDatabase();
    const service = await spawnService({ DATABASE_URL: database.url, WORKERS: '2' });
    const children = workersOf(service);
    // A call in flight keeps its worker until it is answered.
    const call = http.request(`${service.url}/message/send`, { method: 'POST', headers: { 'content-length': '2' } });
    const answered = once(call, 'response');
    call.write('{');
    await (await fetch(`${service.url}/livez`)).text();
    const ended = service.end('SIGINT');
    await until('it stops', () => service.output().includes('stopping, finishing calls in flight'));
    for (const pid of children)
      try {
        process.kill(pid, 'SIGINT');
      } catch (error) {
        // The worker without a call may have ended.
        assert.equal((error as NodeJS.ErrnoException).code, 'ESRCH');
      }
    call.end('}');
    assert.equal(((await answered)[0] as http.IncomingMessage).statusCode, 400);
    assert.equal(await ended, 0, service.output());
    await database.drop();
  });

  test('a stop while a worker is being replaced ends every process, even before the replacement can handle it', async () => {
    const database = await createDatabase();
    const service = await spawnService({ DATABASE_URL: database.url, WORKERS: '2' });
    const first = workersOf(service);
    process.kill(first[0] ?? 0, 'SIGKILL');
    await until('its replacement is forked', () => workersOf(service).some((pid) => !first.includes(pid)));
    // It runs, and has not loaded anything yet.
    await delay(50);
    assert.equal(await service.end('SIGTERM'), 0, service.output());
    await database.drop();
  });

  test('a worker that cannot be replaced is retried while another one listens; the end of the last one ends the instance with 1', async () => {
    const database = await createDatabase();
    const proxy = await openFaultProxy(database.url);
    const service = await spawnService({ DATABASE_URL: proxy.url, DATABASE_WAIT: '1', WORKERS: '2' });
    const [first = 0] = workersOf(service);
    proxy.drop();
    process.kill(first, 'SIGKILL');
    await until('it was not replaced', () => service.output().includes('worker replacement failed to start, retrying'));
    proxy.resume();
    await until('it is replaced', async () => {
      const page = await (await fetch(`${service.url}/metrics`)).text();
      return page.match(/^sendbatch_worker_up.* 1$/gm)?.length === 2;
    });
    proxy.drop();
    for (const pid of workersOf(service)) process.kill(pid, 'SIGKILL');
    const [code] = await once(service.child, 'close');
    assert.equal(code, 1, service.output());
    assert.match(service.output(), /no worker left and none can be started, exiting/);
    await proxy.close();
    await database.drop();
  });

  test('workers that cannot start end with the reason', async () => {
    const { code, output } = await runToEnd({
      WORKERS: '2',
      DATABASE_URL: 'postgres://u:secret@127.0.0.1:1/x',
      DATABASE_WAIT: '1',
    });
    assert.equal(code, 1);
    assert.match(output, /database cannot be reached/);
  });
});
