import assert from 'node:assert/strict';
import { copyFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import tls from 'node:tls';
import { temporaryFolder } from '../support/cluster.ts';
import { createDatabase } from '../support/database.ts';
import { runToEnd, spawnService } from '../support/process.ts';
import { until } from '../support/watch.ts';

const work = temporaryFolder('reload');
after(() => rmSync(work, { recursive: true, force: true }));
const fixture = (name: string) => join(import.meta.dirname, '../support/certificates', name);
const env = { TLS_KEY: join(work, 'tls.key'), TLS_CERT: join(work, 'tls.crt') };
const use = (name: string) => {
  copyFileSync(fixture(`${name}-cert.pem`), env.TLS_CERT);
  copyFileSync(fixture(`${name}-key.pem`), env.TLS_KEY);
};

async function commonNameAt(url: string): Promise<unknown> {
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  const socket = tls.connect({ port: Number(new URL(url).port), host: '127.0.0.1', rejectUnauthorized: false });
  socket.once('error', reject);
  socket.once('secureConnect', () => {
    resolve(socket.getPeerCertificate().subject.CN);
    socket.destroy();
  });
  return await promise;
}

test('SIGHUP makes every worker reload the certificate; a broken one changes nothing and logs one line per worker', async () => {
  use('localhost');
  const database = await createDatabase();
  const service = await spawnService({ ...env, DATABASE_URL: database.url, WORKERS: '2' });
  const lines = (text: string) =>
    service
      .output()
      .split('\n')
      .filter((line) => line.includes(`"msg":"${text}`));
  const before = await commonNameAt(service.url);
  use('client');
  service.child.kill('SIGHUP');
  await until('both workers have the new certificate', () => lines('reloaded').length === 2);
  for (let call = 0; call < 4; call++) assert.notEqual(await commonNameAt(service.url), before);

  copyFileSync(fixture('localhost-key.pem'), env.TLS_KEY);
  service.child.kill('SIGHUP');
  await until('both workers say that it is broken', () => lines('reload failed').length === 2);
  const [line = ''] = lines('reload failed');
  assert.match(line, /"files":"tls","cause":"TLS_KEY=.* is not the key of the certificate in TLS_CERT=/);
  service.child.kill('SIGHUP');
  copyFileSync(fixture('localhost-cert.pem'), env.TLS_CERT);
  service.child.kill('SIGHUP');
  await until('a good pair is taken again', () => lines('reloaded').length === 4);
  assert.equal(lines('reload failed').length, 2, 'the same cause is not repeated');
  assert.equal(await commonNameAt(service.url), before);
  assert.equal(await service.end('SIGTERM'), 0);
  await database.drop();
});

test('SIGHUP does not end a service that has nothing to reload', async () => {
  const database = await createDatabase();
  const service = await spawnService({ DATABASE_URL: database.url });
  service.child.kill('SIGHUP');
  assert.equal((await fetch(`${service.url}/livez`)).status, 200);
  assert.equal(await service.end('SIGTERM'), 0);
  await database.drop();
});

test('JWT_SECRET_PREVIOUS is masked where settings are printed', async () => {
  const secret = 'the previous secret, which nobody is to see';
  const { output } = await runToEnd({ JWT_SECRET_PREVIOUS: secret }, ['config'], work);
  assert.match(output, /^JWT_SECRET_PREVIOUS = \(set, not shown\) {2}\(the environment\)$/m);
  assert.ok(!output.includes(secret));
});
