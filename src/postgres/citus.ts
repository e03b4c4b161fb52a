import { type Kysely, sql } from 'kysely';

/** A database of Citus: a PostgreSQL that places schemas on the nodes of a cluster. */
export interface CitusCluster {
  /** Of the extension, such as `13.2-1`. */
  readonly version: string;
  /** Active nodes, with the coordinator. */
  readonly nodes: number;
  /** Whether this database is on the coordinator, where all tables of no shard are. */
  readonly isCoordinator: boolean;
  /** Where the other nodes reach the coordinator, as far as this node knows. */
  readonly coordinator: Node | undefined;
  /** The database and the nodes: equal on all nodes of one cluster. */
  readonly identity: string;
}

interface Node {
  readonly host: string;
  readonly port: number;
}

/** The cluster that this database belongs to; undefined when it is a plain PostgreSQL. */
// biome-ignore lint/suspicious/noExplicitAny: migrations know no tables
export async function citusCluster(db: Kysely<any>): Promise<CitusCluster | undefined> {
  const { rows } = await sql<{ version: string }>`
    select extversion as version from pg_extension where extname = 'citus'`.execute(db);
  const [extension] = rows;
  if (extension === undefined) return undefined;
  const nodes = await sql<Node & { id: number; group_id: number; local_group: number; database: string }>`
    select n.nodename as host, n.nodeport as port, n.nodeid as id, n.groupid as group_id, l.groupid as local_group,
      current_database() as database
    from pg_dist_local_group l left join pg_dist_node n on n.isactive and n.noderole = 'primary'
    order by n.nodeid`.execute(db);
  const [first] = nodes.rows;
  const known = nodes.rows.filter(({ id }) => id !== null);
  const coordinator = known.find((node) => node.group_id === 0);
  return {
    version: extension.version,
    nodes: known.length,
    isCoordinator: first === undefined || first.local_group === 0,
    coordinator: coordinator && { host: coordinator.host, port: coordinator.port },
    identity: JSON.stringify([first?.database, ...known.map(({ id, host, port }) => [id, host, port])]),
  };
}

/** The URL of the same database, user and options on another node. */
export function urlOnNode(url: string, { host, port }: Node): string {
  const there = new URL(url, 'postgres://base');
  // Parameters win over the authority, and take a socket's folder and an IPv6 address as they are.
  there.searchParams.set('host', host);
  there.searchParams.set('port', String(port));
  return there.href;
}

/** The cluster in words, for the operator. */
export function describeCitus({ version, nodes }: Pick<CitusCluster, 'version' | 'nodes'>): string {
  return `Citus ${version} with ${nodes} active node${nodes === 1 ? '' : 's'}`;
}
