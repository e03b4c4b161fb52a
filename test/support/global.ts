import pg from 'pg';
import { citusUrl } from './citus.ts';
import { preparePristineCluster, startCluster, type TestCluster } from './cluster.ts';
import { adminUrlVariable, migrateDatabase, shardCounts, templateName } from './database.ts';
import { bundleProgram } from './program.ts';

let cluster: TestCluster | undefined;
let removePristine: (() => void) | undefined;
let removeProgram: (() => void) | undefined;

/**
 * Runs once per run: one server and one migrated template, which each test file clones, and the
 * bundle that tests start as processes.
 */
export async function globalSetup(): Promise<void> {
  const program = bundleProgram();
  removeProgram = program.remove;
  try {
    let adminUrl = process.env.TEST_DATABASE_URL ?? citusUrl;
    if (adminUrl === undefined) {
      removePristine = preparePristineCluster();
      cluster = await startCluster({ durable: false, settings: { max_connections: '600' } });
      adminUrl = cluster.url('postgres');
    }
    await prepareTemplate(adminUrl);
    await program.done;
  } catch (error) {
    // Node runs no teardown after a failed setup.
    await globalTeardown();
    throw error;
  }
}

async function prepareTemplate(adminUrl: string): Promise<void> {
  // Test files run in processes of their own: the environment is what reaches them.
  process.env[adminUrlVariable] = adminUrl;
  const admin = new pg.Client({ connectionString: adminUrl });
  await admin.connect();
  for (const count of shardCounts) {
    if (citusUrl !== undefined && count > 1) continue;
    const name = templateName(count);
    await admin.query(`drop database if exists ${name} with (force)`);
    await admin.query(`create database ${name}`);
    const url = new URL(adminUrl);
    url.pathname = `/${name}`;
    await migrateDatabase(url.href, count);
  }
  await admin.end();
}

export async function globalTeardown(): Promise<void> {
  await cluster?.stop();
  removePristine?.();
  removeProgram?.();
}
