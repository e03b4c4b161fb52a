import { execFile } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { jsonOf, NotInstalled, type Peer, peerConnections } from './peer.ts';

const run = promisify(execFile);

const write = `
  select message_store.write_message(id, stream, 'message', data::jsonb)
  from unnest($1::text[], $2::text[], $3::text[]) as w(id, stream, data)`;

export const messageDb: Peer = {
  name: 'Message DB',
  words:
    'PostgreSQL, committed. An event store in SQL functions: one stream per channel, numbered from 0 without gaps. A batch is one statement that calls write_message for each message; all writes of a category share one advisory lock. The id is a uuid and refuses a repeat as an error.',
  async start(url) {
    const place = new URL(url);
    const env = {
      ...process.env,
      PGHOST: place.searchParams.get('host') ?? place.hostname,
      PGPORT: place.port || '5432',
      PGUSER: place.username,
      DATABASE_NAME: place.pathname.slice(1),
      CREATE_DATABASE: 'off',
    };
    await run('bash', [join(folder(), 'database', 'install.sh')], { env }).catch((error: Error) => {
      throw new NotInstalled(`its install.sh failed: ${error.message.slice(0, 200)}`);
    });
    return { url, stop: async () => {} };
  },
  async open(url, batches) {
    const pool = new pg.Pool({
      connectionString: url,
      max: peerConnections,
      options: '-c search_path=message_store,public',
    });
    const uuid = (index: number, place: number) =>
      `00000000-0000-4000-8000-${(Date.now() % 2 ** 24).toString(16).padStart(6, '0')}${(index * 1000 + place).toString(16).padStart(6, '0')}`;
    const values = batches.map((batch, index) => [
      batch.map((_, place) => uuid(index, place)),
      batch.map((work) => work.channelId),
      batch.map((work) => JSON.stringify(jsonOf(work))),
    ]);
    return {
      async send(index) {
        await pool.query(write, values[index]);
      },
      async count() {
        const { rows } = await pool.query<{ count: string }>('select count(*) from message_store.messages');
        return Number(rows[0]?.count);
      },
      close: () => pool.end(),
    };
  },
};

function folder(): string {
  try {
    return dirname(createRequire(import.meta.url).resolve('@eventide/message-db/package.json'));
  } catch {
    throw new NotInstalled('@eventide/message-db is not installed');
  }
}
