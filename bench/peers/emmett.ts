import pg from 'pg';
import { jsonOf, load, type Peer } from './peer.ts';

interface Module {
  getPostgreSQLEventStore(url: string): {
    schema: { migrate(): Promise<unknown> };
    appendToStream(stream: string, events: readonly { type: string; data: object }[]): Promise<unknown>;
    close(): Promise<void>;
  };
}

/** Concurrent appends to one stream conflict; its documentation leaves retries to the caller. */
const tries = 200;

export const emmett: Peer = {
  name: 'emmett-postgresql',
  words:
    'PostgreSQL, committed. An event store: one stream per channel, numbered from 1 without gaps, a global position. No batch over streams: one append per channel of the batch, all concurrent, retried when it conflicts with another writer. No once-only key.',
  async start(url) {
    const { getPostgreSQLEventStore } = await load<Module>('@event-driven-io/emmett-postgresql');
    const store = getPostgreSQLEventStore(url);
    await store.schema.migrate();
    await store.close();
    return { url, stop: async () => {} };
  },
  async open(url, batches) {
    const { getPostgreSQLEventStore } = await load<Module>('@event-driven-io/emmett-postgresql');
    const store = getPostgreSQLEventStore(url);
    const grouped = batches.map((batch) => [...Map.groupBy(batch, (work) => work.channelId)]);
    const append = async (stream: string, events: readonly { type: string; data: object }[]) => {
      for (let attempt = 1; ; attempt++) {
        try {
          return await store.appendToStream(stream, events);
        } catch (error) {
          if (attempt === tries) throw error;
        }
      }
    };
    return {
      async send(index) {
        await Promise.all(
          (grouped[index] ?? []).map(([stream, works]) =>
            append(
              stream,
              works.map((work) => ({ type: 'message', data: jsonOf(work) })),
            ),
          ),
        );
      },
      async count() {
        const client = new pg.Client({ connectionString: url });
        await client.connect();
        const { rows } = await client.query<{ count: string }>('select count(*) from emt_messages');
        await client.end();
        return Number(rows[0]?.count);
      },
      close: () => store.close(),
    };
  },
};
