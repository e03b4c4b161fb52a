import assert from 'node:assert/strict';
import { test } from 'node:test';
import { randomOf } from '../../../bench/workload.ts';
import { LightHeaders, recordOf } from '../../../src/transcode/index.ts';
import { seedOf } from '../../support/seed.ts';

const names = ['accept', 'Accept', 'x-request-id', 'X-Tag', 'set-cookie', 'content-type', 'date', 'absent'];
const values = ['', 'a', 'a, b', 'text/plain; charset=utf-8', ' padded ', 'caf\u00e9', '0'];

test('light headers read and write as web headers do, whatever the order of operations', (context) => {
  const random = randomOf(seedOf(context));
  const pick = <T>(all: readonly T[]): T => all[Math.floor(random() * all.length)] as T;
  for (let round = 0; round < 500; round++) {
    const given = { ':path': '/', accept: '*/*', 'x-tag': 'given', 'set-cookie': ['a=1', 'b=2'], missing: undefined };
    const light = round % 2 === 0 ? new LightHeaders() : new LightHeaders(given);
    const web = new Headers(
      round % 2 === 0
        ? []
        : [...Object.entries({ accept: '*/*', 'x-tag': 'given' }), ['set-cookie', 'a=1'], ['set-cookie', 'b=2']],
    );
    for (let step = 0; step < 8; step++) {
      const [name, value] = [pick(names), pick(values)];
      const kind = Math.floor(random() * 8);
      for (const each of [light, web]) {
        if (kind < 3) each.set(name, value);
        else if (kind === 3) each.append(name, value);
        else if (kind === 4) each.delete(name);
      }
      assert.equal(light.get(name), web.get(name));
      assert.equal(light.has(name), web.has(name));
      if (kind === 5) assert.deepEqual([...light], [...web]);
      if (kind === 6) assert.deepEqual(recordOf(light), Object.fromEntries(web));
      if (kind === 7) assert.deepEqual(light.getSetCookie(), web.getSetCookie());
    }
    assert.deepEqual([...light], [...web]);
  }
});

test('light headers refuse what web headers refuse', () => {
  for (const [name, value] of [
    ['bad name', 'x'],
    ['x', 'line\nbreak'],
    ['', 'x'],
    ['x', 'zero\0'],
  ] as const)
    assert.throws(() => new LightHeaders().set(name, value), TypeError);
});
