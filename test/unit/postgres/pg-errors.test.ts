import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isRepeatedSend, isWithoutSequence } from '../../../src/postgres/pg-errors.ts';

test('errors of the tables of a shard are known by name with and without the number that a worker of Citus adds', () => {
  for (const constraint of ['message_once', 'message_once_102038'])
    assert.equal(isRepeatedSend({ code: '23505', constraint }), true, constraint);
  for (const table of ['message', 'message_102031'])
    assert.equal(isWithoutSequence({ code: '23502', table, column: 'message_seq' }), true, table);

  for (const constraint of ['message_pkey', 'message_pkey_102038', 'message_once_more', 'message_once_', undefined])
    assert.equal(isRepeatedSend({ code: '23505', constraint }), false, constraint);
  assert.equal(isRepeatedSend({ code: '23503', constraint: 'message_once' }), false, 'another SQLSTATE');
  for (const table of ['message_copy', 'message_copy_102031', undefined])
    assert.equal(isWithoutSequence({ code: '23502', table, column: 'message_seq' }), false, table);
  assert.equal(isWithoutSequence({ code: '23502', table: 'message_102031', column: 'payload' }), false);
});

test('errors that Citus passes on from another node, with the message only, are known by the names in it', () => {
  const unique = (name: string) => ({
    code: '23505',
    message: `duplicate key value violates unique constraint "${name}"`,
  });
  assert.equal(isRepeatedSend(unique('message_once_102038')), true);
  for (const name of ['message_pkey_102038', 'message_once_more_102038', 'channel_named'])
    assert.equal(isRepeatedSend(unique(name)), false, name);
  const missing = (column: string, table: string) => ({
    code: '23502',
    message: `null value in column "${column}" of relation "${table}" violates not-null constraint`,
  });
  assert.equal(isWithoutSequence(missing('message_seq', 'message_102031')), true);
  for (const [column, table] of [
    ['payload', 'message_102031'],
    ['message_seq', 'message_copy_102031'],
  ] as const)
    assert.equal(isWithoutSequence(missing(column, table)), false, `${table}.${column}`);
});
