// Databases on a Citus cluster, for runs with CITUS_URL: the URL of a database on its coordinator,
// whose user may create databases on all nodes.
import pg from 'pg';

/** The coordinator; undefined when the tests run on plain PostgreSQL. */
export const citusUrl = process.env.CITUS_URL;

interface Node {
  readonly host: string;
  readonly port: number;
}

/** All active nodes, the coordinator first. */
export async function citusNodes(): Promise<Node[]> {
  return await on(citusUrl ?? '', async (client) => {
    const { rows } = await client.query<Node>(
      `select nodename as host, nodeport as port from pg_dist_node where isactive and noderole = 'primary' order by groupid`,
    );
    return rows;
  });
}

/** The URL of a database on a node. */
export function urlOn({ host, port }: Node, database: string): string {
  const url = new URL(citusUrl ?? '');
  url.hostname = host;
  url.port = String(port);
  url.pathname = `/${database}`;
  return url.href;
}

/**
 * What a service gets as DATABASE_URL: with CITUS_WORKER=1 the same database on the first worker.
 * Tests themselves read and change tables on the coordinator. A URL that a test chose is left as it
 * is.
 */
export async function serviceUrlOf(databaseUrl: string): Promise<string> {
  if (process.env.CITUS_WORKER !== '1' || citusUrl === undefined) return databaseUrl;
  if (new URL(databaseUrl).host !== new URL(citusUrl).host) return databaseUrl;
  const [, worker] = await citusNodes();
  if (worker === undefined) throw new Error('the cluster has no worker');
  return urlOn(worker, new URL(databaseUrl).pathname.slice(1));
}

/** Runs `work` with a connection of its own. */
export async function on<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** Creates an empty database on all nodes; returns its URL at the coordinator. */
export async function createCitusDatabase(name: string): Promise<string> {
  const nodes = await citusNodes();
  for (const node of nodes) {
    await on(urlOn(node, 'postgres'), (client) => client.query(`create database ${name}`));
    await on(urlOn(node, name), (client) => client.query('create extension citus'));
  }
  const [coordinator, ...workers] = nodes;
  if (coordinator === undefined) throw new Error('CITUS_URL names a database without nodes');
  const url = urlOn(coordinator, name);
  await on(url, async (client) => {
    await client.query('select citus_set_coordinator_host($1, $2)', [coordinator.host, coordinator.port]);
    for (const { host, port } of workers) await client.query('select citus_add_node($1, $2)', [host, port]);
  });
  return url;
}

/** Drops a database on all nodes, if it exists. */
export async function dropCitusDatabase(name: string): Promise<void> {
  const { rows } = await on(citusUrl ?? '', (client) =>
    client.query('select from pg_database where datname = $1', [name]),
  );
  if (rows.length === 0) return;
  const nodes = await citusNodes();
  // An outage may have left transactions prepared.
  const [coordinator] = nodes;
  if (coordinator !== undefined)
    await on(urlOn(coordinator, name), (client) => client.query('select recover_prepared_transactions()'));
  for (const node of nodes)
    for (let attempt = 0; ; attempt++)
      try {
        await on(urlOn(node, 'postgres'), (client) => client.query(`drop database if exists ${name} with (force)`));
        break;
      } catch (error) {
        // object_in_use after 5 s: the maintenance process of a node asks another one.
        if ((error as { code?: string }).code !== '55006' || attempt === 5) throw error;
      }
}
