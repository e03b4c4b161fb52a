/**
 * What Citus needs of SQL in a database with several shards, as rules over statement texts; and a
 * record of every statement that this process sends.
 */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  DummyDriver,
  Kysely,
  type LogEvent,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
} from 'kysely';
import pg from 'pg';
import { mainSchema, shardTables } from '../../src/postgres/shards.ts';
import { byTest } from '../support/by-test.ts';

const shardSchema = new RegExp(`\\b${mainSchema}_\\d{3,4}(?="?\\.)`, 'g');
const undivided = new RegExp(`\\b${mainSchema}"?\\."?(${shardTables.join('|')})\\b`);
const control = new RegExp(`\\b${mainSchema}"?\\."?\\w+`);
const volatile = /\b(now|nextval|random|gen_random_uuid|clock_timestamp|statement_timestamp|transaction_timestamp)\(/;

/** The rules that a statement breaks. */
function brokenRules(text: string): string[] {
  if (/^\s*(create|alter|drop)\b/i.test(text)) return /\btrigger\b/i.test(text) ? ['it creates a trigger'] : [];
  const schemas = new Set(text.match(shardSchema));
  const updates = [...text.matchAll(/\bdo update\s+set\b(.*?)(?=\bwhere\b|\breturning\b|\)\s*,|$)/gis)].map(
    ([, set]) => set ?? '',
  );
  return [
    schemas.size > 1 ? 'it names the tables of two shards' : '',
    undivided.test(text) ? 'it names a table of channels without its shard' : '',
    schemas.size > 0 && control.test(text) ? 'it joins a table of a shard with one of no shard' : '',
    schemas.size > 0 && /\bnextval\(/i.test(text) ? 'a shard draws from a sequence' : '',
    schemas.size > 0 && /\)\s*select\b/i.test(text) && updates.some((set) => /\$\d/.test(set))
      ? 'insert … select has parameters in do update set'
      : '',
    updates.some((set) => volatile.test(set)) ? 'do update set calls a volatile function' : '',
    /^\s*do\b|\bmerge\s+into\b|\b(ctid)\b/i.test(text) ? 'it has DO, MERGE or ctid' : '',
  ].filter((rule) => rule !== '');
}

/** Adds a test that all recorded statements obey the rules, besides those that `except` returns. */
export function testRules(
  statements: ReadonlySet<string>,
  except: () => Promise<ReadonlySet<string>> = async () => new Set(),
): void {
  test('every statement that was sent obeys the rules of Citus', async () => {
    assert.ok(statements.size > 100, `${statements.size} statements`);
    const excepted = await except();
    const sent = [...statements].filter((text) => !excepted.has(text));
    const broken = sent.flatMap((text) => brokenRules(text).map((rule) => `${rule}: ${text}`));
    assert.deepEqual(broken, []);
  });
}

/**
 * The texts of statements that this process has sent since, each once; without those of pg-boss.
 */
export function recordStatements(): ReadonlySet<string> {
  const texts = new Set<string>();
  const { query } = pg.Client.prototype;
  // biome-ignore lint/suspicious/noExplicitAny: pg types this method as nine overloads
  pg.Client.prototype.query = function (this: pg.Client, ...args: any[]): any {
    const [sent] = args;
    const text = typeof sent === 'string' ? sent : sent?.text;
    const isOurs = typeof text === 'string' && !text.includes('sendbatch_jobs') && !text.startsWith(byTest);
    if (isOurs) texts.add(text);
    return Reflect.apply(query, this, args);
  };
  return texts;
}

/**
 * The statements of all migrations. Those before the tables are divided name them in `sendbatch`.
 */
export async function migrationStatements(): Promise<ReadonlySet<string>> {
  const texts = new Set<string>();
  const recorder = new Kysely<unknown>({
    dialect: {
      createAdapter: () => new PostgresAdapter(),
      createDriver: () => new DummyDriver(),
      createIntrospector: (db) => new PostgresIntrospector(db),
      createQueryCompiler: () => new PostgresQueryCompiler(),
    },
    log({ query }: LogEvent) {
      texts.add(query.sql);
    },
  });
  const folder = join(import.meta.dirname, '../../src/postgres/migrations');
  for (const file of readdirSync(folder)) {
    const { up } = (await import(join(folder, file))) as { up(db: Kysely<unknown>): Promise<void> };
    await up(recorder);
  }
  await recorder.destroy();
  return texts;
}
