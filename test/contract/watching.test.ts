import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { parse } from 'yaml';
import { gather } from '../../src/observability/gather.ts';
import { type Metric, metrics, workerUp } from '../../src/observability/metrics.ts';
import { temporaryFolder } from '../support/cluster.ts';
import { jsonCaller } from '../support/json.ts';
import { type Sample, samplesOf, sumOf } from '../support/metrics.ts';
import { openClients } from '../support/protocols.ts';
import { startReceiver } from '../support/receiver.ts';
import { startService, type TestService } from '../support/service.ts';
import { until } from '../support/watch.ts';

const deploy = join(import.meta.dirname, '../../deploy');
const dashboardFile = join(deploy, 'grafana/sendbatch.json');
const rulesFile = join(deploy, 'prometheus/alerts.yml');

interface Panel {
  readonly title: string;
  readonly type: string;
  readonly datasource?: { readonly uid: string };
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly targets?: readonly { readonly expr: string; readonly datasource: { readonly uid: string } }[];
}
const dashboard: { panels: Panel[]; templating: { list: { name: string; definition?: string }[] } } = JSON.parse(
  readFileSync(dashboardFile, 'utf8'),
);
/** Expressions of the rules: one line, or a block of lines after `>-`. */
const rules = [...readFileSync(rulesFile, 'utf8').matchAll(/^ {8}expr: (?:>-\n((?: {10}.*\n)+)|(.*)\n)/gm)].map(
  ([, block, line]) => (block ?? line ?? '').trim(),
);
const runbooksFile = join(deploy, '../docs/operations/runbooks.md');
/** Queries of the runbooks: one per line of a `promql` block. */
const runbookQueries = [...readFileSync(runbooksFile, 'utf8').matchAll(/^```promql\n(.*?)^```$/gms)].flatMap(
  ([, block = '']) => block.split('\n').filter((line) => line !== ''),
);
const queries = [
  ...dashboard.panels.flatMap((panel) => (panel.targets ?? []).map(({ expr }) => ({ where: panel.title, expr }))),
  ...rules.map((expr) => ({ where: 'alerts.yml', expr })),
  ...runbookQueries.map((expr) => ({ where: 'runbooks.md', expr })),
];

/** Returns the metrics of an expression with their matchers, and its grouping labels. */
function partsOf(expr: string) {
  const text = expr.replaceAll(/job=~"\$job",instance=~"\$instance",?/g, '').replaceAll('$__rate_interval', '5m');
  const metrics = [
    ...text
      .replaceAll(/\bby \([^)]*\)/g, '')
      .matchAll(/\b((?:sendbatch|rpc|process|nodejs|v8js)_\w+)(?:\{([^}]*)\})?(?=[[\s){]|$)/g),
  ].map(([, name = '', matchers = '']) => ({
    name,
    matchers: [...matchers.matchAll(/(\w+)(=~|!=|!~|=)"([^"]*)"/g)].map(([, label = '', how = '', value = '']) => ({
      label,
      how,
      value,
    })),
  }));
  const grouped = [...text.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, labels = '']) => labels.split(/,\s*/));
  return { metrics, grouped };
}

/** Labels that Prometheus adds to scraped samples. */
const scraped = ['job', 'instance'];

describe('dashboard, alerts and runbooks', () => {
  let service: TestService;
  let samples: Sample[];
  before(async () => {
    const hook = createServer((_, response) => response.end('{"results":[{"action":"allow"}]}'));
    await new Promise<void>((resolve) => hook.listen(0, '127.0.0.1', resolve));
    const moderationHook = {
      url: `http://127.0.0.1:${(hook.address() as AddressInfo).port}/`,
      timeoutMs: 60_000,
      onFailure: 'open' as const,
    };
    service = await startService({
      moderationHook,
      webhooks: { settings: undefined, allowPrivate: true, timeoutMs: 60_000, retrySchedule: {} },
      sweepIntervalMs: 10,
      deliveryCursors: true,
      rates: { caller: [], sender: [{ points: 3, seconds: 3600 }], channel: [], store: 'memory' },
    });
    const receiver = await startReceiver();
    await jsonCaller(service.url).post('/v1/webhooks', { name: 'watched', url: receiver.url });
    samples = await samplesWithTraffic(service.url);
    await receiver.close();
    hook.close();
  });
  after(() => service.stop());

  test('dashboard, alerts and runbooks contain queries of known metrics', () => {
    assert.ok(queries.length > 50, `${queries.length} queries`);
    assert.ok(rules.length > 15, `${rules.length} rules`);
    for (const { where, expr } of queries)
      assert.ok(partsOf(expr).metrics.length > 0 || /^up\{/.test(expr), `${where}: ${expr}`);
  });

  test('every metric and label in the dashboard, the rules and the runbooks exists in the service', () => {
    const values = new Set(samples.flatMap(({ labels }) => Object.values(labels)));
    for (const { where, expr } of queries) {
      const { metrics, grouped } = partsOf(expr);
      const labels = new Set<string>(scraped);
      for (const { name, matchers } of metrics) {
        const own = samples.filter((sample) => sample.name === name);
        assert.ok(own.length > 0, `${where}: there is no ${name}`);
        for (const sample of own) for (const label of Object.keys(sample.labels)) labels.add(label);
        for (const { label, how, value } of matchers) {
          assert.ok(scraped.includes(label) || own.some((each) => label in each.labels), `${where}: ${name}{${label}}`);
          if (how === '=' && !scraped.includes(label))
            assert.ok(values.has(value), `${where}: nothing has ${label}="${value}"`);
        }
      }
      for (const label of grouped) assert.ok(labels.has(label), `${where}: by (${label}), which none has: ${expr}`);
    }
  });

  test('every metric of the service is on the dashboard or in a rule', () => {
    const used = queries.map(({ expr }) => expr).join('\n');
    const families = new Set(samples.map(({ name }) => name.replace(/_(bucket|count|sum)$/, '')));
    const unused = [...families].filter((family) => !new RegExp(`\\b${family}(_bucket|_count|_sum)?\\b`).test(used));
    assert.deepEqual(unused, []);
  });

  test('the table of metrics lists every metric of the service with its help, kind and labels, and no other', async () => {
    const page = await (await fetch(`${service.url}/metrics`)).text();
    const table: Metric[] = [...Object.values(metrics), workerUp];
    const families = new Set(samples.map(({ name }) => name.replace(/_(bucket|count|sum)$/, '')));
    assert.deepEqual([...families].toSorted(), table.map(({ name }) => name).toSorted());
    for (const { name, kind, help, labels = [] } of table) {
      const own = samples.filter((sample) => sample.name.replace(/_(bucket|count|sum)$/, '') === name);
      const extra = name === workerUp.name ? ['le'] : ['le', 'worker'];
      const names = new Set(
        own.flatMap((sample) => Object.keys(sample.labels)).filter((each) => !extra.includes(each)),
      );
      assert.deepEqual([...names].toSorted(), [...labels].toSorted(), name);
      if (name !== workerUp.name) assert.ok(page.includes(`# HELP ${name} ${help}\n# TYPE ${name} ${kind}\n`), name);
    }
  });

  test('every alert has a severity, a summary, a description and an existing runbook', () => {
    const sections = new Set(
      [...readFileSync(runbooksFile, 'utf8').matchAll(/^## (.*)$/gm)].map(([, title = '']) => title.toLowerCase()),
    );
    const base = 'https://github.com/sendbatch/sendbatch/blob/main/docs/operations/runbooks.md';
    const { groups } = parse(readFileSync(rulesFile, 'utf8')) as {
      groups: { rules: { alert: string; labels: Record<string, string>; annotations: Record<string, string> }[] }[];
    };
    for (const { alert, labels, annotations } of groups.flatMap((group) => group.rules)) {
      assert.match(labels.severity ?? '', /^(critical|warning)$/, alert);
      assert.ok(annotations.summary && annotations.description, alert);
      assert.equal(annotations.runbook_url, `${base}#${alert.toLowerCase()}`);
      assert.ok(sections.delete(alert.toLowerCase()), `${alert} has no runbook`);
    }
    assert.deepEqual([...sections], [], 'every runbook belongs to an alert');
  });

  test('the first screen of the dashboard shows success and latency of batches, and no panels overlap', () => {
    const first = dashboard.panels.filter(({ gridPos, type }) => gridPos.y + gridPos.h <= 14 && type !== 'row');
    const expressions = first.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr)).join('\n');
    for (const part of [
      /sendbatch_batches_total\{[^}]*outcome="failed"/,
      /histogram_quantile\(0\.5, .*SendBatch/,
      /histogram_quantile\(0\.99, .*SendBatch/,
      /sendbatch_messages_total/,
    ])
      assert.match(expressions, part);
    const cells = new Set<string>();
    for (const { title, gridPos } of dashboard.panels)
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++)
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
          assert.ok(x < 24 && !cells.has(`${x} ${y}`), title);
          cells.add(`${x} ${y}`);
        }
  });

  test('the dashboard queries only the selected data source', () => {
    assert.deepEqual(
      dashboard.templating.list.map(({ name }) => name),
      ['DS_PROMETHEUS', 'job', 'instance'],
    );
    for (const { title, targets = [] } of dashboard.panels)
      for (const { datasource } of targets) assert.equal(datasource.uid, `\${DS_PROMETHEUS}`, title);
  });

  const promtool = promtoolPath();
  const skip = promtool === undefined && 'promtool is not installed (Debian: prometheus; .ci/run installs it)';
  test('promtool accepts the rules, their tests, the queries of the dashboard and the metrics', {
    skip,
  }, async (context) => {
    const run = (args: string[], input = '') => {
      const { status, stdout, stderr } = spawnSync(promtool ?? '', args, { encoding: 'utf8', input });
      assert.equal(status, 0, `promtool ${args.join(' ')}: ${stdout}${stderr}`);
    };
    run(['check', 'rules', rulesFile]);
    // PromQL of the dashboard, with the variables as Grafana fills them in; JSON is YAML.
    const recorded = dashboard.panels
      .flatMap(({ targets = [] }) => targets)
      .map(({ expr }, index) => ({
        record: `panel_${index}`,
        expr: expr.replaceAll('$__rate_interval', '5m'),
      }));
    const folder = temporaryFolder('promtool');
    context.after(() => rmSync(folder, { recursive: true }));
    const file = join(folder, 'dashboard.yml');
    writeFileSync(file, JSON.stringify({ groups: [{ name: 'dashboard', rules: recorded }] }));
    run(['check', 'rules', '--lint=none', file]);
    run(['test', 'rules', join(deploy, 'prometheus/alerts.test.yml')]);
    run(['check', 'metrics'], await (await fetch(`${service.url}/metrics`)).text());
  });
});

/** Returns the path of promtool: PROMTOOL, or the one on PATH. */
function promtoolPath(): string | undefined {
  const { PROMTOOL } = process.env;
  if (PROMTOOL !== undefined && existsSync(PROMTOOL)) return PROMTOOL;
  try {
    return execFileSync('sh', ['-c', 'command -v promtool'], { encoding: 'utf8' }).trim();
  } catch {
    return undefined;
  }
}

/** Creates traffic until every metric has a sample, those of workers included. */
async function samplesWithTraffic(url: string): Promise<Sample[]> {
  const { post } = jsonCaller(url);
  const draft = (key: string, more: object = {}) => ({
    from_uid: `u-${key}`,
    channel_id: 'watched',
    channel_type: 2,
    client_msg_no: key,
    payload: 'eA==',
    ...more,
  });
  const [client] = openClients(url);
  await client?.send({
    messages: [{ channelId: 'watched', channelType: 2, fromUid: 'u', payload: Buffer.from('x'), clientMsgNo: 'g' }],
  });
  client?.close();
  await post('/message/sendbatch', [draft('1')]);
  // A duplicate makes the group retry pessimistically, which waits for locks.
  await post('/message/sendbatch', [draft('1')]);
  await post('/message/sendbatch', []);
  const many = Array.from({ length: 5 }, (_, index) => draft(`m${index}`, { from_uid: 'busy' }));
  await post('/message/sendbatch', many);
  await post('/message/sendbatch', [draft('p', { channel_id: 'reader', channel_type: 1 })]);
  // Hands it to its receiver.
  await fetch(`${url}/v1/channels/1/u-p/messages?uid=reader`);
  const leave = new AbortController();
  const tail = await fetch(`${url}/v1/channels/2/watched/events?from_now=true`, { signal: leave.signal });
  const frames = (tail.body ?? assert.fail('no body')).pipeThrough(new TextDecoderStream())[Symbol.asyncIterator]();
  const read = async (what: string) => {
    let text = '';
    while (!text.includes(what)) text += (await frames.next()).value ?? assert.fail('the tail ended');
  };
  await read('caught_up');
  await post('/message/sendbatch', [draft('2')]);
  await read('event: message');
  leave.abort();
  setFlagsFromString('--expose-gc');
  runInNewContext('gc')();
  const scrapeAll = async () => {
    const page = await (await fetch(`${url}/metrics`)).text();
    return [...samplesOf(page), ...samplesOf(gather(new Map([['0', page]])))];
  };
  // The sweeper runs every few milliseconds, the tail loop every five seconds.
  const complete = (all: readonly Sample[]) =>
    [
      'sendbatch_tail_lag_seconds_count',
      'v8js_gc_duration_seconds_count',
      'sendbatch_webhook_delivery_duration_seconds_count',
      'sendbatch_delivery_cursors_total',
    ].every((name) => sumOf(all, name) > 0) &&
    sumOf(all, 'sendbatch_background_run_duration_seconds_count', { loop: 'sweeper' }) > 0;
  let all: Sample[] = [];
  await until('every metric has a sample', async () => {
    all = await scrapeAll();
    return complete(all);
  });
  return all;
}
