import { type Command, InvalidArgumentError } from 'commander';
import type { Keys, KeyWish } from '../../auth/api-keys.ts';
import { type Scope, scopes } from '../../messages/caller.ts';
import { withDatabase } from '../database.ts';
import { plain, print, printJson } from '../output/output.ts';
import { CommandError, exit, splitList, wholeNumber, withExamples } from '../usage.ts';

const dayMs = 24 * 3600_000;

const about = `
Keys are stored in the database, so the command needs the settings of the service (DATABASE_URL or DATA_DIR), not its URL.

Exit codes: 0 success, 1 error.

Examples:
  sendbatch key create --name billing --scopes send,read --expires 90d
  sendbatch key list
  sendbatch key revoke hq3vj0c2mxe5n1ab`;

interface CreateOptions {
  readonly name: string;
  readonly scopes: Scope[];
  readonly senders?: string[];
  readonly rate?: number;
  readonly expires?: number;
  readonly json?: boolean;
}

export function addKey(program: Command): void {
  const key = program
    .command('key')
    .summary('API keys: create, list, revoke')
    .description('API keys of callers.')
    .addHelpText('after', about);
  const json = '--json' as const;
  const createKey = key
    .command('create')
    .description('Creates a key and prints it. It cannot be printed again.')
    .requiredOption('--name <name>', 'name of the caller, at most 100 characters', keyName)
    .option('--scopes <scopes>', scopes.join(', '), scopeList, ['send', 'read'])
    .option('--senders <uids>', 'uids that it may send as (default: any)', senderList)
    .option('--rate <n>', 'rate limit in messages per second', wholeNumber(1, 1_000_000))
    .option('--expires <days>', 'lifetime in days, such as 90d (default: no expiry)', days)
    .option(json, 'as JSON')
    .action(async (options: CreateOptions) => {
      await withKeys(({ keys, now }) => create(keys, options, now));
    });
  withExamples(createKey, [
    'sendbatch key create --name billing',
    'sendbatch key create --name campaigns --scopes send --senders news,alerts --rate 500 --expires 90d',
  ]);
  const listKeys = key
    .command('list')
    .alias('ls')
    .description('Lists all keys. Their secrets are not stored.')
    .option(json, 'as a JSON array')
    .action(async (options: { json?: boolean }) => {
      await withKeys(({ keys, now }) => list(keys, options.json === true, now));
    });
  withExamples(listKeys, [
    'sendbatch key list',
    `sendbatch key list --json | jq -r '.[] | select(.state == "active") | .id'`,
  ]);
  const revokeKey = key
    .command('revoke')
    .description('Revokes a key: every instance refuses it within 1 s, and its unfinished batches are cancelled.')
    .argument('<id>', 'key id, as printed by key list')
    .option(json, 'as JSON')
    .action(async (id: string, options: { json?: boolean }) => {
      await withKeys(({ keys, stopBatches }) => revoke(keys, id, options.json === true, stopBatches));
    });
  withExamples(revokeKey, ['sendbatch key revoke hq3vj0c2mxe5n1ab'], '0 success, 1 error, or no such active key');
}

/** API keys, and database time, which decides about their expiry. */
interface WithKeys {
  readonly keys: Keys;
  readonly now: number;
  /** Cancels the batches of a revoked key; returns their ids. */
  readonly stopBatches: (keyId: string) => Promise<string[]>;
}

async function withKeys(work: (given: WithKeys) => Promise<void>): Promise<void> {
  const { createKeys } = await import('../../auth/api-keys.ts');
  const { stopBatches } = await import('../../batches/run-chunk.ts');
  const { databaseClock } = await import('../../postgres/database-clock.ts');
  await withDatabase({ poolSize: 1 }, async (db) => {
    const now = await databaseClock(db);
    await work({ keys: createKeys(db, () => now), now, stopBatches: (keyId) => stopBatches(db, keyId) });
  });
  process.exitCode = exit.done;
}

async function create(
  keys: Keys,
  { name, scopes, senders, rate, expires, json }: CreateOptions,
  now: number,
): Promise<void> {
  const made = await keys.create({
    name,
    scopes,
    ...(senders === undefined ? {} : { senders }),
    ...(rate === undefined ? {} : { ratePerSecond: rate }),
    ...(expires === undefined ? {} : { expiresAt: now + expires * dayMs }),
  } satisfies KeyWish);
  if (json) return await printJson(JSON.stringify(made));
  await print(
    `${made.key}\n\nThe key is not shown again. Callers send it as "Authorization: Bearer <key>"; legacy callers as "token: <key>".`,
  );
}

async function list(keys: Keys, json: boolean, now: number): Promise<void> {
  const all = await keys.list();
  const rows = all.map((key) => ({
    id: key.keyId,
    name: key.name,
    scopes: key.scopes.join(','),
    senders: key.senders?.join(',') ?? 'any',
    rate: key.ratePerSecond ?? 'default',
    expires: key.expiresAt === null ? 'never' : new Date(key.expiresAt).toISOString(),
    state: key.revokedAt !== null ? 'revoked' : key.expiresAt !== null && key.expiresAt <= now ? 'expired' : 'active',
  }));
  if (json) return await printJson(JSON.stringify(rows));
  if (rows.length === 0) return await print('no keys; create one with: key create --name <name>');
  for (const row of rows)
    await print(
      plain(
        `${row.id}  ${row.state.padEnd(7)}  ${row.name}  scopes ${row.scopes}  senders ${row.senders}  rate ${row.rate}  expires ${row.expires}`,
      ),
    );
}

async function revoke(keys: Keys, id: string, json: boolean, stopBatches: WithKeys['stopBatches']): Promise<void> {
  if (!(await keys.revoke(id))) throw new CommandError(`no active key ${JSON.stringify(id)}; key list shows all keys`);
  const stopped = (await stopBatches(id)).length;
  if (json) return await print(JSON.stringify({ revoked: id, stopped_batches: stopped }));
  const batches = stopped === 1 ? '1 batch cancelled' : `${stopped} batches cancelled`;
  await print(`${id} is revoked; every instance refuses it within 1 s; ${batches}`);
}

/** The limits of CreateKey. */
const [nameChars, mostSenders, senderBytes] = [100, 1000, 256];

function keyName(text: string): string {
  if (text === '' || [...text].length > nameChars) throw new InvalidArgumentError('Expected 1 to 100 characters.');
  return text;
}

/** An empty list would be a key that may send as nobody, not as anybody. */
function senderList(text: string): string[] {
  const senders = [...new Set(splitList(text))];
  if (
    senders.length === 0 ||
    senders.length > mostSenders ||
    senders.some((uid) => Buffer.byteLength(uid) > senderBytes)
  )
    throw new InvalidArgumentError(`Expected 1 to ${mostSenders} uids of at most ${senderBytes} bytes.`);
  return senders;
}

function scopeList(text: string): Scope[] {
  const named = splitList(text);
  const odd = named.find((each) => !scopes.includes(each as Scope));
  if (odd !== undefined || named.length === 0) throw new InvalidArgumentError(`Expected ${scopes.join(', ')}.`);
  return named as Scope[];
}

function days(text: string): number {
  const count = Number(/^(\d{1,5})d$/.exec(text)?.[1]);
  if (!(count >= 1)) throw new InvalidArgumentError('Expected days, such as 90d.');
  return count;
}
