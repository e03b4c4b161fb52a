import assert from 'node:assert/strict';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { findBrokenLinks } from '../../scripts/links.ts';
import { temporaryFolder } from '../support/cluster.ts';

const own = 'https://github.com/sendbatch/sendbatch/blob/main';

test('the link check finds missing files and headings in Markdown, in HTML and in URLs of the repository’s own pages', (context) => {
  const files: Record<string, string> = {
    'README.md': [
      '# One `code` & more',
      '## Twice',
      '## Twice',
      'Good: [a](docs/a.md), [folder](docs/), [root](/docs/a.md), [here](#one-code--more), [again](#twice-1),',
      '[Chinese](docs/a.md#发送一批消息), [encoded](docs/a.md#%E5%8F%91%E9%80%81%E4%B8%80%E6%89%B9%E6%B6%88%E6%81%AF),',
      `[id](docs/a.md#mark), [web](https://example.com/none), [mail](mailto:a@b.c), [own](${own}/docs/a.md#mark), \`[code](none)\`.`,
      '<a href="docs/a.md">a</a> ![image](picture.svg)',
      'Bad: [a](docs/none.md), [b](#three), [c](docs/a.md#none), [d](../README.md),',
      `[e][ref], <img src="none.svg">, [f](${own}/docs/a.md#none).`,
      '',
      '[ref]: docs/ref.md',
    ].join('\n'),
    'docs/a.md':
      '# 发送一批消息\n\n<a id="mark"></a>\n\n```md\n[not a link](none.md)\n```\n\n[up](../README.md#twice)\n',
    'alerts.yaml': `url: ${own}/docs/a.md#mark\nurl: ${own}/docs/b.md#mark\n`,
    'picture.svg': '<svg/>',
  };
  const folder = temporaryFolder('links');
  context.after(() => rmSync(folder, { recursive: true, force: true }));
  for (const [file, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, file)), { recursive: true });
    writeFileSync(join(folder, file), text);
  }
  assert.deepEqual(findBrokenLinks(folder, Object.keys(files)).sort(), [
    `README.md:11: docs/ref.md: no such file`,
    'README.md:8: #three: no such heading',
    'README.md:8: ../README.md: no such file',
    'README.md:8: docs/a.md#none: no such heading',
    'README.md:8: docs/none.md: no such file',
    `README.md:9: ${own}/docs/a.md#none: no such heading`,
    'README.md:9: none.svg: no such file',
    `alerts.yaml:2: ${own}/docs/b.md#mark: no such file`,
  ]);
});
