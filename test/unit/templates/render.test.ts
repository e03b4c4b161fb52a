import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { limits } from '../../../src/limits.ts';
import type { ServiceError } from '../../../src/messages/service-error.ts';

import { createTemplates, type Templates } from '../../../src/templates/templates.ts';
import type { Variables } from '../../../src/templates/variables.ts';
import { openOwnStore } from '../../support/database.ts';
import { watchStalls } from '../../support/stalls.ts';

describe('rendering of batches', () => {
  let templates: Templates;
  let close: () => Promise<void>;
  before(async () => {
    const store = await openOwnStore();
    templates = createTemplates(store.db);
    close = store.close;
  });
  after(() => close());

  const drafts = (count: number, variables: Variables) =>
    Array.from({ length: count }, () => ({
      clientMsgNo: '',
      fromUid: 'u1',
      channelId: 'c',
      channelType: 2,
      expire: 0,
      payload: new Uint8Array(),
      subscribers: [],
      streamNo: '',
      tagKey: '',
      template: { name: 't', version: 0, variables },
    }));
  const own = (body: string) => [{ name: 't', body, format: 'text' as const }];

  // liquidjs checks its time limit between tags only: this filter would block the process for 100
  // s.
  test('rendering interrupts a filter that does not end, and renders the other messages', async () => {
    const list = Array.from({ length: 50_000 }, (_, index) => `k${index}`);
    const slow = drafts(1, { a: list });
    const quick = drafts(1, { a: ['x'] });
    const body = '{{ a | where_exp: "x", "a contains x" | size }}';
    const { drafts: rendered, refused } = await templates.render([...quick, ...slow, ...quick], own(body));
    assert.deepEqual([...refused.keys()], [1]);
    assert.match(refused.get(1)?.message ?? '', /^template "t" cannot be rendered: it took longer than \d+ ms$/);
    assert.deepEqual(
      [0, 2].map((index) => Buffer.from(rendered[index]?.payload ?? []).toString()),
      ['1', '1'],
    );
    await assert.rejects(templates.preview({ name: 't', body, format: 'text' }, { a: list }), /took longer than/);
  });

  test('rendering for 24 heavy callers delays neither the event loop nor a caller that renders little', async () => {
    const stalls = watchStalls();
    const loops = '{% for i in (1..100) %}{% for j in (1..200) %}{% if j %}{% endif %}{% endfor %}{% endfor %}x';
    const disconnect = new AbortController();
    let heavyDone = 0;
    const heavy = Array.from({ length: 24 }, async (_, index) => {
      await templates
        .render(drafts(200, {}), own(loops), { caller: `heavy ${index}`, signal: disconnect.signal })
        .finally(() => heavyDone++);
    });
    for (let call = 0; call < 10; call++) {
      const { drafts: rendered, refused } = await templates.render(drafts(3, { a: 'x' }), own('{{ a | upcase }}'), {
        caller: 'light',
      });
      assert.equal(refused.size, 0);
      assert.equal(Buffer.from(rendered[2]?.payload ?? []).toString(), 'X');
    }
    assert.equal(heavyDone, 0, 'each of the heavy calls takes seconds');
    disconnect.abort(new Error('disconnected'));
    const ends = await Promise.allSettled(heavy);
    assert.ok(ends.every((end) => end.status === 'rejected'));
    const longest = stalls();
    assert.ok(longest < 100, `the event loop was blocked for ${longest} ms`);
  });

  test('templates of a request that are too large together are refused before they fill the memory', async () => {
    const text = (body: string) =>
      Array.from({ length: 100 }, (_, index) => ({ name: `t${index}`, body, format: 'text' as const }));
    await templates.render([], text(`${'x'.repeat(60_000)}{{ a }}{% if a %}{{ b }}{% endif %}`));
    const chain = `{% if ${'a or '.repeat(12_000)}a %}{% endif %}`;
    await assert.rejects(templates.render([], text(chain)), (error: ServiceError) => {
      assert.equal(error.refusal.reason, 'INVALID_FIELD');
      assert.match(error.violations[0]?.description ?? '', /too large together/);
      return true;
    });
  });

  test('a template may have limits.templateTags tags and outputs, and no more', async () => {
    await templates.render([], own('{{ a }}'.repeat(limits.templateTags)));
    await assert.rejects(
      templates.render([], own('{{ a }}'.repeat(limits.templateTags + 1))),
      (error: ServiceError) => {
        assert.match(error.violations[0]?.description ?? '', /has 1001 tags and outputs, at most 1000/);
        return true;
      },
    );
  });
});
