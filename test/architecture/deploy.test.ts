import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { parseAllDocuments, parseDocument } from 'yaml';
import { describeSettings, loadConfig } from '../../src/config/index.ts';
import { idleInTransactionMs } from '../../src/postgres/pool.ts';
import { headLockWaitMs } from '../../src/sending/held-channels.ts';
import { temporaryFolder } from '../support/cluster.ts';
import { startService } from '../support/service.ts';

const root = join(import.meta.dirname, '../..');
const deploy = join(root, 'deploy');
const textOf = (path: string) => readFileSync(join(deploy, path), 'utf8');
const filesIn = (folder: string) => readdirSync(join(deploy, folder));

/** Any part of a manifest. */
// biome-ignore lint/suspicious/noExplicitAny: manifests have many shapes.
type Yaml = any;
const yamlOf = (path: string): Yaml => parseDocument(textOf(path), { merge: true }).toJS();

const compose = yamlOf('compose/compose.yaml');
const instances = ['sendbatch-1', 'sendbatch-2'];
const base = (name: string) => yamlOf(`kubernetes/base/${name}.yaml`);
const deployment = base('deployment');
const pod = deployment.spec.template.spec;
const job = base('migrate').spec.template.spec;
const dockerfile = textOf('docker/Dockerfile');
const unit = textOf('systemd/sendbatch.service');
const directives = (name: string) =>
  [...unit.matchAll(new RegExp(`^${name}=(.*)$`, 'gm'))].map(([, value = '']) => value);
const overlay = yamlOf('kubernetes/overlays/example/kustomization.yaml');
const has = (program: string) => spawnSync(program, ['--version']).error === undefined;

/** `NAME=value` pairs, one per line or per word. */
function pairs(lines: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    lines
      .filter((line) => line !== '')
      .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
  );
}
const listed = (container: Yaml) =>
  Object.fromEntries((container.env ?? []).map(({ name, value }: { name: string; value: string }) => [name, value]));

const ofImage = pairs(/^ENV (.*)$/m.exec(dockerfile)?.[1]?.split(' ') ?? []);
const settingsFile = pairs(textOf('kubernetes/base/settings.env').split('\n'));
/** The environment of each deployed process, on top of the image's own. */
const environments: Record<string, Record<string, string>> = {
  image: { ...ofImage, AUTH: 'on' },
  ...Object.fromEntries(
    [...instances, 'migrate'].map((name) => [`compose ${name}`, { ...ofImage, ...compose.services[name].environment }]),
  ),
  pod: { ...ofImage, ...settingsFile, ...listed(pod.containers[0]) },
  'pod of the overlay': { ...ofImage, ...settingsFile, ...pairs(overlay.configMapGenerator[0].literals) },
  job: { ...ofImage, ...listed(job.containers[0]) },
  unit: pairs(directives('Environment').flatMap((line) => line.split(' '))),
};

describe('every YAML file parses without a warning', () => {
  const files = readdirSync(deploy, { recursive: true, encoding: 'utf8' }).filter((file) => /\.ya?ml$/.test(file));
  assert.ok(files.length >= 12);
  for (const file of files)
    test(file, () => {
      for (const document of parseAllDocuments(textOf(file), { merge: true }))
        assert.deepEqual([...('errors' in document ? document.errors : []), ...document.warnings], []);
    });
});

describe('every deployed process has settings that it can start with', () => {
  for (const [name, env] of Object.entries(environments)) {
    test(name, () => {
      const { NODE_ENV: _, ...ours } = env;
      const known = describeSettings().flatMap((each) => [each.name, ...(each.sensitive ? [`${each.name}_FILE`] : [])]);
      for (const each of Object.keys(ours)) assert.ok(known.includes(each), `${each} is no setting`);
      loadConfig(Object.fromEntries(Object.entries(ours).filter(([each]) => !each.endsWith('_FILE'))));
    });
  }
});

describe('a stop has enough time in every deployment', () => {
  const ms = (env: Record<string, string>, name: string) =>
    Number(env[name] ?? describeSettings().find((each) => each.name === name)?.default ?? 0);
  /** Time to close the database connections and to end the process. */
  const restMs = 5000;
  const needed = (env: Record<string, string> | undefined, before = 0) =>
    before + ms(env ?? {}, 'DRAIN_DELAY') + ms(env ?? {}, 'SHUTDOWN_GRACE') + restMs;
  test('Docker Compose allows enough time for a stop', () => {
    for (const name of instances) {
      const seconds = /^(\d+)s$/.exec(compose.services[name].stop_grace_period)?.[1];
      assert.ok(Number(seconds) * 1000 >= needed(environments[`compose ${name}`]));
    }
  });
  test('Kubernetes allows enough time for a stop', () => {
    const before = pod.containers[0].lifecycle.preStop.sleep.seconds * 1000;
    assert.ok(pod.terminationGracePeriodSeconds * 1000 >= needed(environments.pod, before));
  });
  test('systemd allows enough time for a stop', () => {
    assert.ok(Number(directives('TimeoutStopSec')[0]) * 1000 >= needed(environments.unit));
  });
});

describe('the container image', () => {
  const stages = dockerfile.split(/^FROM /m).slice(1);
  const last = stages.at(-1) ?? '';
  test('the image copies only files that exist and that .dockerignore lets through', () => {
    const through =
      readFileSync(join(root, '.dockerignore'), 'utf8')
        .match(/^!.*$/gm)
        ?.map((line) => line.slice(1)) ?? [];
    for (const path of through) assert.ok(existsSync(join(root, path)), path);
    const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
      files: string[];
      bin: { sendbatch: string };
    };
    for (const path of manifest.files)
      assert.ok(
        path === 'dist' || through.includes(path) || through.includes(path.split('/')[0] ?? ''),
        `${path} is packed`,
      );
    for (const [, sources = ''] of dockerfile.matchAll(/^COPY (?!--from)(.*) \S+$/gm))
      for (const source of sources.split(' ')) assert.ok(source === '.' || through.includes(source), source);
    assert.ok(last.includes(manifest.bin.sendbatch));
  });
  test('the last stage of the image runs nothing, installs nothing and is not root', () => {
    assert.equal(stages.length, 2);
    assert.match(last, /^gcr\.io\/distroless\/base-nossl-\S+:nonroot\n/);
    assert.doesNotMatch(last, /^(RUN|USER|ADD) /m);
    assert.match(last, /^STOPSIGNAL SIGTERM$/m);
    assert.match(last, /^HEALTHCHECK .*"health"\]$/m);
  });
});

describe('the Compose deployment', () => {
  test('Compose runs two instances, migrates before them, bypasses the pooler where required, and contains no secret', () => {
    for (const name of instances) {
      const { depends_on, environment, read_only, secrets } = compose.services[name];
      assert.deepEqual(depends_on.migrate, { condition: 'service_completed_successfully' });
      assert.equal(read_only, true);
      for (const each of ['DATABASE_URL_FILE', 'LISTEN_DATABASE_URL_FILE'])
        assert.ok(secrets.map((secret: string) => `/run/secrets/${secret}`).includes(environment[each]));
      assert.ok(textOf('compose/haproxy.cfg').includes(` ${name}:${environment.PORT}`));
    }
    const published = compose.services.balancer.ports[0].split(':').at(-1);
    assert.ok(textOf('compose/haproxy.cfg').includes(`bind :${published}\n`));
    assert.doesNotMatch(textOf('compose/compose.yaml'), /postgres(ql)?:\/\/|PASSWORD:/);
  });
  test('Compose mounts files that exist, and secrets.sh creates the remaining ones once', (context) => {
    for (const { volumes = [] } of Object.values<Yaml>(compose.services))
      for (const [path = ''] of volumes.map((each: string) => each.split(':')))
        if (path.startsWith('.')) assert.ok(existsSync(join(deploy, 'compose', path)), path);
    const { context: folder, dockerfile: file } = compose['x-sendbatch'].build;
    assert.ok(existsSync(join(deploy, 'compose', folder, file)));
    const copy = temporaryFolder('compose');
    context.after(() => rmSync(copy, { recursive: true, force: true }));
    cpSync(join(deploy, 'compose/secrets.sh'), join(copy, 'secrets.sh'));
    const make = () => assert.equal(spawnSync(join(copy, 'secrets.sh')).status, 0);
    make();
    const read = () =>
      Object.fromEntries(
        Object.entries<Yaml>(compose.secrets).map(([name, { file }]) => [name, readFileSync(join(copy, file), 'utf8')]),
      );
    const made = read();
    const password = made.postgres_password ?? '';
    assert.match(password, /^[0-9a-f]{48}$/);
    for (const text of Object.values(made)) assert.ok(text.includes(password));
    loadConfig({ DATABASE_URL: made.database_url, LISTEN_DATABASE_URL: made.pooled_database_url });
    make();
    assert.deepEqual(read(), made);
    assert.equal(statSync(join(copy, 'secrets')).mode & 0o077, 0);
  });
  test('the Compose pooler accepts and sets what the service requests', () => {
    const ini = textOf('compose/pgbouncer.ini');
    const statementTimeout = describeSettings().find((each) => each.name === 'STATEMENT_TIMEOUT')?.default;
    for (const [name, usual] of [
      ['lock_timeout', headLockWaitMs],
      ['statement_timeout', statementTimeout],
      ['idle_in_transaction_session_timeout', idleInTransactionMs],
    ] as const) {
      assert.match(ini, new RegExp(`^ignore_startup_parameters = .*\\b${name}\\b`, 'm'));
      assert.ok(ini.includes(`set ${name} = ${usual}`), `${name} is ${usual}`);
    }
    assert.match(ini, /^pool_mode = transaction\nmax_prepared_statements = [1-9]/m);
  });
  test('the Compose balancer resolves names again, and sees that an instance stops before it ends connections', () => {
    const haproxy = textOf('compose/haproxy.cfg');
    const resolvers = /^resolvers (\S+)$/m.exec(haproxy)?.[1];
    const [, options = ''] = /^ +default-server (.*)$/m.exec(haproxy) ?? [];
    assert.match(options, new RegExp(`\\bresolvers ${resolvers}\\b.*\\binit-addr libc,none\\b`));
    const [, seconds, fall] = /\binter (\d+)s fall (\d+)\b/.exec(options) ?? [];
    for (const name of instances)
      assert.ok(Number(compose.services[name].environment.DRAIN_DELAY) > Number(seconds) * 1000 * Number(fall));
  });
  test('HAProxy accepts its configuration', { skip: !has('haproxy') && 'no haproxy here' }, () => {
    const { status, stderr } = spawnSync('haproxy', ['-c', '-f', join(deploy, 'compose/haproxy.cfg')], {
      encoding: 'utf8',
    });
    assert.equal(status, 0, stderr);
  });
});

describe('the Kubernetes manifests', () => {
  test('every file of a Kubernetes folder is listed, and every listed file exists', () => {
    for (const folder of ['base', 'overlays/example']) {
      const { resources, patches = [], configMapGenerator } = yamlOf(`kubernetes/${folder}/kustomization.yaml`);
      const named = [
        ...resources,
        ...patches.map((patch: { path: string }) => patch.path),
        ...configMapGenerator.flatMap((each: { envs?: string[] }) => each.envs ?? []),
      ];
      for (const path of named) assert.ok(existsSync(join(deploy, 'kubernetes', folder, path)), path);
      for (const file of filesIn(`kubernetes/${folder}`))
        assert.ok(file === 'kustomization.yaml' || named.includes(file), `${file} is not listed`);
    }
  });
  test('a Kubernetes rollout removes no pod before another is ready, and evictions go one at a time', () => {
    assert.deepEqual(deployment.spec.strategy.rollingUpdate, { maxSurge: 1, maxUnavailable: 0 });
    assert.ok(deployment.spec.replicas >= 2);
    assert.equal(base('poddisruptionbudget').spec.maxUnavailable, 1);
  });
  test('the Kubernetes manifests state the maximum of database connections', () => {
    const usual = (name: string) => Number(describeSettings().find((each) => each.name === name)?.default);
    const surge = deployment.spec.strategy.rollingUpdate.maxSurge;
    const most = yamlOf('kubernetes/overlays/example/horizontalpodautoscaler.yaml').spec.maxReplicas + surge;
    // One for LISTEN, one for readiness, 3 for the queue of batches, and 4 that count rate limits.
    const each = usual('LANES') + usual('POOL_SIZE') + 1 + 1 + 3 + 4;
    assert.ok(overlay.configMapGenerator[0].literals.includes('RATE_STORE=postgres'));
    assert.ok(textOf('kubernetes/overlays/example/horizontalpodautoscaler.yaml').includes(` want ${most * each} of\n`));
  });
  test('every Kubernetes selector matches the instances, and every port exists', () => {
    const { labels } = deployment.spec.template.metadata;
    const selectors = [
      deployment.spec.selector.matchLabels,
      base('service').spec.selector,
      base('poddisruptionbudget').spec.selector.matchLabels,
      base('networkpolicy').spec.podSelector.matchLabels,
      pod.topologySpreadConstraints[0].labelSelector.matchLabels,
    ];
    for (const selector of selectors) assert.deepEqual(selector, labels);
    assert.notDeepEqual(base('migrate').spec.template.metadata.labels, labels);
    const [container] = pod.containers;
    const [{ name, containerPort }] = container.ports;
    assert.equal(String(containerPort), settingsFile.PORT);
    const ports = [container.startupProbe, container.readinessProbe, container.livenessProbe].map(
      (probe) => probe.httpGet.port,
    );
    const [port] = base('service').spec.ports;
    assert.deepEqual(
      [...ports, port.targetPort, base('networkpolicy').spec.ingress[0].ports[0].port],
      Array(5).fill(name),
    );
    assert.equal(port.appProtocol, 'kubernetes.io/h2c');
  });
  test('no Kubernetes container runs as root, writes its image or has spare privileges; memory is bounded', () => {
    for (const spec of [pod, job]) {
      assert.deepEqual([spec.securityContext.runAsNonRoot, spec.securityContext.runAsUser], [true, 65_532]);
      assert.deepEqual([spec.automountServiceAccountToken, spec.enableServiceLinks], [false, false]);
      const [{ securityContext, resources, volumeMounts, env }] = spec.containers;
      assert.deepEqual(securityContext, {
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ['ALL'] },
      });
      assert.ok(resources.requests.cpu && resources.requests.memory && resources.limits.memory);
      const keys = Object.keys(yamlOf('kubernetes/overlays/example/secret.yaml').stringData);
      for (const { name, value } of env)
        if (name.endsWith('_FILE'))
          assert.ok(
            keys.some((key) => value === `${volumeMounts[0].mountPath}/${key}`),
            value,
          );
    }
  });
  test('the Kubernetes probes use routes that exist', async (context) => {
    const service = await startService();
    context.after(() => service.stop());
    const [{ startupProbe, readinessProbe, livenessProbe }] = pod.containers;
    const paths = [startupProbe, readinessProbe, livenessProbe].map((probe) => probe.httpGet.path);
    const check = /http-check send meth GET uri (\S+)/.exec(textOf('compose/haproxy.cfg'))?.[1];
    for (const path of [...paths, check]) assert.equal((await fetch(`${service.url}${path}`)).status, 200, path);
  });
  test('kustomize builds the Kubernetes manifests', { skip: !has('kubectl') && 'no kubectl here' }, () => {
    for (const folder of ['base', 'overlays/example']) {
      const { status, stdout, stderr } = spawnSync('kubectl', ['kustomize', join(deploy, 'kubernetes', folder)], {
        encoding: 'utf8',
      });
      assert.equal(status, 0, stderr);
      const built: Yaml[] = parseAllDocuments(stdout).map((each) => each.toJS());
      const of = (kind: string) => built.find((each) => each.kind === kind);
      assert.ok(['Deployment', 'Job', 'Service', 'PodDisruptionBudget', 'NetworkPolicy', 'ConfigMap'].every(of));
      const { labels } = of('Deployment').spec.template.metadata;
      assert.deepEqual(of('Service').spec.selector, labels);
      assert.deepEqual(of('PodDisruptionBudget').spec.selector.matchLabels, labels);
      assert.equal(
        of('Deployment').spec.template.spec.containers[0].envFrom[0].configMapRef.name,
        of('ConfigMap').metadata.name,
      );
      if (folder === 'base') continue;
      assert.equal(of('Deployment').spec.replicas, undefined, 'the autoscaler says how many');
      assert.equal(of('ConfigMap').data.RATE_STORE, 'postgres');
      for (const kind of ['Deployment', 'Job'])
        assert.match(of(kind).spec.template.spec.containers[0].image, /^registry\.example\.com\/sendbatch:/);
    }
  });
});

test('npm start, the image and the systemd unit start Node with the same flags', () => {
  const flagsOf = (text: string, pattern: RegExp) => pattern.exec(text)?.[1]?.match(/--[\w=-]+/g) ?? [];
  const manifest = readFileSync(join(import.meta.dirname, '../../package.json'), 'utf8');
  const expected = ['--max-semi-space-size=64'];
  assert.deepEqual(flagsOf(manifest, /"start": "(.*)"/), expected);
  assert.deepEqual(flagsOf(dockerfile, /^ENTRYPOINT (.*)$/m), expected);
  assert.deepEqual(flagsOf(unit, /^ExecStart=(.*)$/m), expected);
});

describe('the systemd unit', () => {
  test('systemd accepts the unit', { skip: !has('systemd-analyze') && 'no systemd here' }, (context) => {
    const folder = temporaryFolder('unit');
    context.after(() => rmSync(folder, { recursive: true, force: true }));
    const path = join(folder, 'sendbatch.service');
    // systemd-analyze requires the program to exist.
    writeFileSync(path, unit.replaceAll('/usr/bin/node', process.execPath));
    const { status, stdout, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', path], { encoding: 'utf8' });
    assert.equal(status, 0, stdout + stderr);
    const about = (stdout + stderr).split('\n').filter((line) => line.includes('sendbatch.service'));
    assert.deepEqual(about, []);
  });
  test('the systemd unit migrates first, stops as the service does, and is not root', () => {
    assert.match(directives('ExecStartPre')[0] ?? '', /dist\/src\/main\.js migrate$/);
    assert.match(directives('ExecStart')[0] ?? '', /dist\/src\/main\.js serve$/);
    assert.deepEqual(
      [directives('DynamicUser'), directives('KillMode'), directives('KillSignal')],
      [['yes'], ['mixed'], ['SIGTERM']],
    );
  });
});
