import { type Kysely, sql } from 'kysely';

/** A database of Citus: a PostgreSQL that places schemas on the nodes of a cluster. */
export interface CitusCluster {
  /** Of the extension, such as `13.2-1`. */
  readonly version: string;
  /** Active nodes, with the coordinator. */
  readonly nodes: number;
}

/** The cluster that this database belongs to; undefined when it is a plain PostgreSQL. */
// biome-ignore lint/suspicious/noExplicitAny: migrations know no tables
export async function citusCluster(db: Kysely<any>): Promise<CitusCluster | undefined> {
  const { rows } = await sql<{ version: string }>`
    select extversion as version from pg_extension where extname = 'citus'`.execute(db);
  const [extension] = rows;
  if (extension === undefined) return undefined;
  const nodes = await sql<{ count: number }>`
    select count(*) as count from pg_dist_node where isactive and noderole = 'primary'`.execute(db);
  return { version: extension.version, nodes: nodes.rows[0]?.count ?? 0 };
}

/** The cluster in words, for the operator. */
export function describeCitus({ version, nodes }: CitusCluster): string {
  return `Citus ${version} with ${nodes} active node${nodes === 1 ? '' : 's'}`;
}
