import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CallSignal } from '../../../src/rpc/call-signal.ts';

test('a call signal aborts once, with its first reason, and calls the listeners that are left', () => {
  const signal = new CallSignal();
  const called: string[] = [];
  const removed = () => called.push('removed');
  signal.addEventListener('abort', () => called.push('first'));
  signal.addEventListener('abort', removed);
  signal.addEventListener('abort', () => called.push('second'));
  signal.removeEventListener('abort', removed);
  signal.throwIfAborted();
  signal.abort('left');
  signal.abort('again');
  assert.deepEqual(called, ['first', 'second']);
  assert.equal(signal.aborted, true);
  assert.equal(signal.reason, 'left');
  assert.throws(
    () => signal.throwIfAborted(),
    (thrown) => thrown === 'left',
  );
});

test('the web signal of a call signal follows it, whether it is read before the abort or after', () => {
  for (const isReadBefore of [true, false]) {
    const own = new CallSignal();
    const early = isReadBefore ? own.signal : undefined;
    own.abort('left');
    assert.equal((early ?? own.signal).aborted, true);
    assert.equal((early ?? own.signal).reason, 'left');
    assert.equal(own.signal, early ?? own.signal);
  }
});
