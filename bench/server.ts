/** A PostgreSQL server with an empty database `sendbatch`. */
export interface Server {
  url(database: string): string;
  readonly pid: number;
  stop(): Promise<void>;
}
