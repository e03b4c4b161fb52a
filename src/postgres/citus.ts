import { type Kysely, sql } from 'kysely';

/** A database of Citus: a PostgreSQL that places schemas on the nodes of a cluster. */
export interface CitusCluster {
  /** Of the extension, such as `13.2-1`. */
  readonly version: string;
  /** Active nodes, with the coordinator. */
  readonly nodes: number;
  /** Whether this database is on the coordinator, where all tables of no shard are. */
  readonly isCoordinator: boolean;
  /** Host and port of the coordinator, as far as this node knows. */
  readonly coordinator: string | undefined;
}

/** The cluster that this database belongs to; undefined when it is a plain PostgreSQL. */
// biome-ignore lint/suspicious/noExplicitAny: migrations know no tables
export async function citusCluster(db: Kysely<any>): Promise<CitusCluster | undefined> {
  const { rows } = await sql<{ version: string }>`
    select extversion as version from pg_extension where extname = 'citus'`.execute(db);
  const [extension] = rows;
  if (extension === undefined) return undefined;
  const nodes = await sql<{ count: number; local_group: number; coordinator: string | null }>`
    select count(*) as count, (select groupid from pg_dist_local_group) as local_group,
      min(nodename || ':' || nodeport) filter (where groupid = 0) as coordinator
    from pg_dist_node where isactive and noderole = 'primary'`.execute(db);
  const [{ count, local_group: group, coordinator } = { count: 0, local_group: 0, coordinator: null }] = nodes.rows;
  return {
    version: extension.version,
    nodes: count,
    isCoordinator: group === 0,
    coordinator: coordinator ?? undefined,
  };
}

/** The cluster in words, for the operator. */
export function describeCitus({ version, nodes }: Pick<CitusCluster, 'version' | 'nodes'>): string {
  return `Citus ${version} with ${nodes} active node${nodes === 1 ? '' : 's'}`;
}
