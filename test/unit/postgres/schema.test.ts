import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { sql } from 'kysely';
import { openOwnStore } from '../../support/database.ts';

/** Kysely's own tables of applied migrations. */
const own = ['migration', 'migration_lock'];
const types: Readonly<Record<string, string>> = {
  int2: 'number',
  int4: 'number',
  int8: 'number',
  text: 'string',
  varchar: 'string',
  uuid: 'string',
  bool: 'boolean',
  bytea: 'Buffer',
  jsonb: 'unknown',
  _int2: 'number[]',
  _int8: 'number[]',
  _text: 'string[]',
};

/** The content of JSON columns that have a type. */
const json: Readonly<Record<string, string>> = {
  'message.subscribers': 'string[]',
  'message.changed': 'MessageChanges',
  'message_copy.subscribers': 'string[]',
};

/** `table.column: type` of each property in the interfaces that `Tables` names. */
function declared(): string[] {
  const text = readFileSync(join(import.meta.dirname, '../../../src/postgres/schema.ts'), 'utf8');
  const interfaces = new Map(
    [...text.matchAll(/interface (\w+Table) \{\n(.*?)\n\}/gs)].map(([, name = '', body = '']) => [name, body]),
  );
  return [...text.matchAll(/'sendbatch\.(\w+)': (\w+);/g)].flatMap(([, table, name = '']) =>
    [...(interfaces.get(name) ?? '').matchAll(/^ {2}(\w+): (.*);$/gm)].map(
      ([, column, type]) => `${table}.${column}: ${type}`,
    ),
  );
}

test('the types of the tables equal those of a migrated database', async () => {
  const store = await openOwnStore();
  try {
    const { rows } = await sql<{ name: string; type: string; nullable: boolean; generated: boolean }>`
      select table_name || '.' || column_name as name, udt_name as type, is_nullable = 'YES' as nullable,
        column_default is not null or is_identity = 'YES' as generated
      from information_schema.columns
      where table_schema = 'sendbatch' and table_name <> all(${own})`.execute(store.db);
    const found = rows.map(({ name, type, nullable, generated }) => {
      const plain = json[name] ?? types[type] ?? `no type for ${type}`;
      if (nullable) return `${name}: ${plain === 'unknown' ? plain : `${plain} | null`}`;
      return `${name}: ${generated ? `Generated<${plain}>` : plain}`;
    });
    assert.ok(found.length > 100);
    assert.deepEqual(declared().sort(), found.sort());
  } finally {
    await store.close();
  }
});
