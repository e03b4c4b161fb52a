import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import pg from 'pg';
import { startEmbedded } from '../../src/postgres/embedded/index.ts';
import { killAll, quietLog, startCluster } from '../support/cluster.ts';
import { type ProtocolClient, said } from '../support/protocols.ts';
import { startService } from '../support/service.ts';
import { mountSmallDisk, type SmallDisk } from '../support/small-disk.ts';
import { assertSound, readAll } from '../support/verify.ts';
import { assertBusy, clientOf, draftTo, until, watch } from '../support/watch.ts';

/** A disk that is unmounted at the end of the test; undefined when the test was skipped. */
function diskFor(context: TestContext, megabytes: number): SmallDisk | undefined {
  const disk = mountSmallDisk(megabytes);
  if (typeof disk === 'string') {
    context.skip(disk);
    return undefined;
  }
  context.after(() => disk.remove());
  return disk;
}

const large = (channelId: string, key: string) => ({ ...draftTo(channelId, key), payload: noise() });
/** 60 KB that do not compress. */
const noise = () => Buffer.from(Array.from({ length: 60_000 }, () => Math.floor(Math.random() * 256)));

/** Sends until a send is refused; returns the keys of the accepted messages. */
async function sendUntilBusy(client: ProtocolClient, channelId: string, many: number): Promise<string[]> {
  const taken: string[] = [];
  for (let round = 0; round < 200; round++) {
    const keys = Array.from({ length: many }, (_, index) => `${round}-${index}`);
    const answer = await client.send({ messages: keys.map((key) => large(channelId, key)) });
    if ('refused' in answer) {
      assertBusy(answer);
      return taken;
    }
    assert.ok(answer.results.every((result) => result.refused === undefined));
    taken.push(...keys);
  }
  throw new Error('the disk is not full');
}

describe('a full disk', () => {
  test('when the disk of the tables is full, sends get STORE_BUSY, reads go on, and sends go on once there is room', async (context) => {
    const disk = diskFor(context, 16);
    if (disk === undefined) return;
    // Dead rows must keep their space: a vacuum during the test would free some.
    const cluster = await startCluster({ durable: true, settings: { autovacuum: 'off' } });
    const url = cluster.url('sendbatch');
    const settings = { databaseUrl: url, sweepIntervalMs: 200 };
    const service = await startService(settings);
    const other = await startService(settings);
    const admin = new pg.Client({ connectionString: url });
    await admin.connect();
    const watching = watch(service, other, url);
    try {
      await admin.query(`create tablespace small location '${disk.folder}'`);
      await admin.query('alter table sendbatch.message set tablespace small');
      await watching.assertWell();
      const grpc = clientOf(service, 'gRPC, grpc-js');
      const json = clientOf(service, 'JSON route');
      assert.equal(said(await grpc.send({ messages: [draftTo('full', 'first')] })), 'ok');
      disk.fill();
      const taken = await sendUntilBusy(json, 'full', 5);
      assertBusy(await grpc.send({ messages: [large('full', 'not now')] }));
      const read = await fetch(`${service.url}/v1/channels/2/full/messages?limit=1`);
      assert.equal(read.status, 200, await read.text());
      disk.free();
      assert.equal(said(await grpc.send({ messages: [large('full', 'not now')] })), 'ok');
      await watching.assertWell();
      const keys = (await readAll(url)).filter((row) => row.channel === 'full').map((row) => row.key);
      assert.deepEqual(keys, ['first', ...taken, 'not now']);
      await assertSound(url);
      grpc.close();
    } finally {
      watching.stop();
      await admin.end();
      await service.stop();
      await other.stop();
      await cluster.stop();
    }
  });

  test('when the disk of the WAL is full, PostgreSQL ends, sends get STORE_BUSY until it is back, and no acknowledged message is lost', async (context) => {
    const disk = diskFor(context, 64);
    if (disk === undefined) return;
    const walSettings = { max_wal_size: '48MB', min_wal_size: '32MB' };
    const cluster = await startCluster({ durable: true, settings: walSettings });
    const { dataDir } = cluster;
    const url = cluster.url('sendbatch');
    const start = () => startEmbedded({ dataDir, explicit: true, log: quietLog, settings: walSettings });
    // Moves the WAL to the small disk, as deployments with a separate WAL disk do.
    process.kill(cluster.pid, 'SIGINT');
    await until('the server is gone', () => !existsSync(`/proc/${cluster.pid}`));
    const wal = join(dataDir, 'postgres', 'pg_wal');
    const place = join(disk.folder, 'wal');
    execFileSync('cp', ['-a', wal, place]);
    renameSync(wal, `${wal}.before`);
    symlinkSync(place, wal);
    let { pid } = await start();
    const settings = { databaseUrl: url, sweepIntervalMs: 200 };
    const service = await startService(settings);
    const other = await startService(settings);
    const watching = watch(service, other, url);
    try {
      await watching.assertWell();
      const client = clientOf(service, 'gRPC, grpc-js');
      disk.fill();
      const taken = await sendUntilBusy(client, 'full-log', 20);
      assert.ok(taken.length > 0);
      const last = large('full-log', 'not now');
      assertBusy(await clientOf(service, 'JSON route').send({ messages: [last] }));
      disk.free();
      // PostgreSQL recovers by itself if there was room in time; if its recovery found none, it has
      // ended.
      await until('it is taken', async () => {
        if (!existsSync(`/proc/${pid}`)) ({ pid } = await start());
        return /^(ok|again)$/.test(said(await client.send({ messages: [last] })));
      });
      await watching.assertWell();
      const keys = (await readAll(url)).filter((row) => row.channel === 'full-log').map((row) => row.key);
      for (const key of [...taken, 'not now']) assert.ok(keys.includes(key), `${key} is lost`);
      await assertSound(url);
      client.close();
    } finally {
      watching.stop();
      await service.stop();
      await other.stop();
      if (existsSync(`/proc/${pid}`)) killAll(pid);
      await until('the server is gone', () => !existsSync(`/proc/${pid}`));
      rmSync(wal, { force: true });
      renameSync(`${wal}.before`, wal);
      await cluster.stop();
    }
  });
});
