import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type LogEventInfo, logEvents } from '../../src/observability/log-events.ts';

const source = join(import.meta.dirname, '../../src');
const sources = readdirSync(source, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts') && !file.endsWith('log-events.ts'))
  .map((file) => readFileSync(join(source, file), 'utf8'))
  .join('\n');
const table: [string, LogEventInfo][] = Object.entries(logEvents);

test('every log event is logged somewhere, and no two events share a text', () => {
  for (const [name] of table) assert.ok(sources.includes(`'${name}'`), `nothing logs ${name}`);
  assert.equal(new Set(table.map(([, { message }]) => message)).size, table.length);
});

test('fields of log events are camelCase, and a throttled event has the fields of its throttle key', () => {
  for (const [name, { fields, throttledBy, meaning }] of table) {
    for (const field of fields) assert.match(field, /^[a-z][A-Za-z]*$/, name);
    assert.match(meaning, /^[A-Z].*\.$/, name);
    if (throttledBy === undefined) continue;
    for (const field of [...throttledBy, 'repeats']) assert.ok(fields.includes(field), `${name}: ${field}`);
  }
});

test('levels are logged by name, and a repeating cause is logged once with the number of its repeats', () => {
  const code = `
    const { createLog } = await import(${JSON.stringify(join(source, 'observability/log.ts'))});
    const { mock } = await import('node:test');
    mock.timers.enable({ apis: ['setTimeout'] });
    const log = createLog({ level: 'info', format: 'json' });
    const lost = (cause) => log('databaseConnectionLost', { cause });
    for (const port of [5001, 5002, 5003]) lost('connect ECONNREFUSED 127.0.0.1:' + port);
    lost('terminating connection');
    log('callEnded');
    mock.timers.tick(5000);
    log('stopped');`;
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' });
  const lines = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { level: string; msg: string; cause?: string; repeats?: number });
  assert.deepEqual(
    lines.map(({ level, msg, cause, repeats }) => [level, msg, cause, repeats]),
    [
      ['warn', 'database connection lost', 'connect ECONNREFUSED 127.0.0.1:5001', undefined],
      ['warn', 'database connection lost', 'terminating connection', undefined],
      ['warn', 'database connection lost', 'connect ECONNREFUSED 127.0.0.1:5003', 2],
      ['info', 'stopped', undefined, undefined],
    ],
    stderr,
  );
});
