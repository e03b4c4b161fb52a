import type { Config } from '../config.ts';
import { type Scope, scopes } from '../domain/caller.ts';
import type { Log } from '../events.ts';
import { openServer } from '../open-server.ts';
import { createKeys, type Keys, type KeyWish } from '../service/keys.ts';
import { parseOptions, UsageError } from './usage.ts';

const usage = `key create --name <name> [--scopes send,read,admin] [--senders uid,uid] [--rate <messages a second>] [--expires <days>d] [--json]
  key list [--json]
  key revoke <id> [--json]`;

const dayMs = 24 * 3600_000;

/** The commands about API keys: create, list, revoke. Prints to stdout; a key's secret is printed once, when it is made. */
export async function runKeyCommand(args: readonly string[], config: Config, log: Log): Promise<void> {
  const command = parse(args);
  const server = await openServer({ ...config, databaseWaitMs: 0 }, log, () => {});
  const db = server.open({ poolSize: 1 });
  try {
    await command(createKeys(db), (text) => console.log(text));
  } finally {
    await db.destroy();
    await server.close();
  }
}

type Command = (keys: Keys, print: (text: string) => void) => Promise<void>;

function parse(args: readonly string[]): Command {
  const { values, positionals } = parseOptions(args, options, usage);
  const [verb, ...rest] = positionals;
  const json = values.json === true;
  if (verb === 'create' && rest.length === 0) return create(wishOf(values), json);
  if (verb === 'list' && rest.length === 0) return list(json);
  const [id] = rest;
  if (verb === 'revoke' && id !== undefined && rest.length === 1) return revoke(id, json);
  throw new UsageError(usage);
}

const options = {
  name: { type: 'string' },
  scopes: { type: 'string' },
  senders: { type: 'string' },
  rate: { type: 'string' },
  expires: { type: 'string' },
  json: { type: 'boolean' },
} as const;

function wishOf(values: ReturnType<typeof parseOptions<typeof options>>['values']): KeyWish {
  const { name = '', scopes: wanted = 'send,read', senders, rate, expires } = values;
  if (name === '' || name.length > 100)
    throw new UsageError('--name is needed: who uses the key, at most 100 characters');
  const named = listOf(wanted);
  const odd = named.find((each) => !scopes.includes(each as Scope));
  if (odd !== undefined || named.length === 0)
    throw new UsageError(`--scopes takes ${scopes.join(', ')}, not ${JSON.stringify(odd ?? wanted)}`);
  const days = expires === undefined ? undefined : Number(/^(\d{1,5})d$/.exec(expires)?.[1]);
  if (days !== undefined && !(days >= 1)) throw new UsageError('--expires takes days, such as 90d');
  const perSecond = rate === undefined ? undefined : Number(rate);
  if (perSecond !== undefined && !(Number.isInteger(perSecond) && perSecond >= 1 && perSecond <= 1_000_000))
    throw new UsageError('--rate takes messages a second, from 1 to 1000000');
  return {
    name,
    scopes: named as Scope[],
    ...(senders === undefined ? {} : { senders: listOf(senders) }),
    ...(perSecond === undefined ? {} : { ratePerSecond: perSecond }),
    ...(days === undefined ? {} : { expiresAt: Date.now() + days * dayMs }),
  };
}

function create(wish: KeyWish, json: boolean): Command {
  return async (keys, print) => {
    const made = await keys.create(wish);
    if (json) return print(JSON.stringify(made));
    print(
      `${made.key}\n\nThis is the only time that it is shown. Callers send it as "Authorization: Bearer <key>", legacy ones as "token: <key>".`,
    );
  };
}

function list(json: boolean): Command {
  return async (keys, print) => {
    const all = await keys.list();
    const now = Date.now();
    const rows = all.map((key) => ({
      id: key.keyId,
      name: key.name,
      scopes: key.scopes.join(','),
      senders: key.senders?.join(',') ?? 'any',
      rate: key.ratePerSecond ?? 'default',
      expires: key.expiresAt === null ? 'never' : new Date(key.expiresAt).toISOString(),
      state: key.revokedAt !== null ? 'revoked' : key.expiresAt !== null && key.expiresAt <= now ? 'expired' : 'active',
    }));
    if (json) return print(JSON.stringify(rows));
    if (rows.length === 0) return print('there are no keys; make one with: key create --name <name>');
    for (const row of rows)
      print(
        `${row.id}  ${row.state.padEnd(7)}  ${row.name}  scopes ${row.scopes}  senders ${row.senders}  rate ${row.rate}  expires ${row.expires}`,
      );
  };
}

function revoke(id: string, json: boolean): Command {
  return async (keys, print) => {
    if (!(await keys.revoke(id)))
      throw new UsageError(`there is no active key ${JSON.stringify(id)}; key list shows all`);
    print(json ? JSON.stringify({ revoked: id }) : `${id} is revoked; every instance refuses it within a second`);
  };
}

function listOf(text: string): string[] {
  return text
    .split(',')
    .map((each) => each.trim())
    .filter((each) => each !== '');
}
