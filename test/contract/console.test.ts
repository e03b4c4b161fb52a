import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, get, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { SignJWT } from 'jose';
import { createKeys } from '../../src/auth/api-keys.ts';
import type { Scope } from '../../src/messages/caller.ts';
import { createConsole } from '../../src/server/console/console.ts';
import { openStore } from '../support/database.ts';
import { jsonCaller } from '../support/json.ts';
import { startService, type TestService } from '../support/service.ts';
import { until } from '../support/watch.ts';

const secret = new TextEncoder().encode('a secret of at least thirty-two bytes');
const identity = {
  tokens: {
    key: { secrets: { current: [secret] } },
    algorithms: ['HS256'],
    issuer: 'https://issuer.test',
    audience: 'sendbatch',
    scopes: ['send', 'read', 'admin'] as const,
  },
  certificateScopes: undefined,
};
const settings = { requiresCredential: true, open: false, identity, overviewEveryMs: 200 };

describe('keys, overview and settings over the API', () => {
  let service: TestService;
  let other: TestService;
  let db: ReturnType<typeof openStore>;
  let root: Awaited<ReturnType<typeof callerOf>>;
  const callWith = (credential: string, of = service) => jsonCaller(of.url, { authorization: `Bearer ${credential}` });
  const callerOf = async (scopes: readonly Scope[], more: object = {}) => {
    const { key, keyId } = await createKeys(db).create({ name: scopes.join(), scopes, ...more });
    return { ...callWith(key), key, keyId };
  };
  before(async () => {
    service = await startService(settings);
    other = await startService({ ...settings, databaseUrl: service.databaseUrl });
    db = openStore(service.databaseUrl);
    root = await callerOf(['send', 'read', 'admin', 'metrics']);
  });
  after(async () => {
    await db.destroy();
    await other.stop();
    await service.stop();
  });
  const send = { from_uid: 'system', channel_id: 'keys', channel_type: 2, payload: 'SGk=' };

  test('a key is shown once, is listed without its secret, and is refused once it is revoked', async () => {
    const expiresAt = new Date(Date.now() + 3600_000).toISOString();
    const { body: created } = await root.post('/v1/keys', {
      name: 'billing',
      scopes: ['send'],
      senders: ['system'],
      rate_per_second: 5,
      expires_at: expiresAt,
    });
    const { key_id: keyId } = created.key;
    const caller = callWith(created.secret);
    assert.equal((await caller.post('/message/send', send)).status, 200);
    assert.equal((await caller.get('/v1/keys')).body.error.details[0].reason, 'SCOPE_MISSING');
    // Rounded up to milliseconds it would be in the year 10000, which JSON cannot express.
    const last = '9999-12-31T23:59:59.9999Z';
    await root.post('/v1/keys', { name: 'later', scopes: ['read'], expires_at: last });

    const first = await root.get('/v1/keys?page_size=1');
    assert.deepEqual(
      first.body.keys.map((key: { name: string; expires_at: string }) => [key.name, key.expires_at]),
      [['later', '9999-12-31T23:59:59.999Z']],
    );
    const { body } = await root.get(`/v1/keys?page_token=${first.body.next_page_token}`);
    assert.deepEqual(body.keys[0], {
      key_id: keyId,
      name: 'billing',
      state: 1,
      scopes: ['send'],
      senders: ['system'],
      rate_per_second: 5,
      created_at: created.key.created_at,
      created_by: `key ${root.keyId}`,
      expires_at: expiresAt,
      revoked_by: '',
    });
    assert.equal(body.keys.at(-1).created_by, 'cli');
    assert.ok(
      !JSON.stringify(body).includes(created.secret.slice('sb_'.length + keyId.length + 1)),
      'no list shows a secret',
    );

    const submitted = await caller.post('/v1/batches', { messages: [{ ...send, send_at: expiresAt }] });
    assert.equal(submitted.status, 200, JSON.stringify(submitted.body));
    const revoked = await root.post(`/v1/keys/${keyId}:revoke`, {});
    assert.deepEqual(
      [revoked.body.key.state, revoked.body.key.revoked_by, revoked.body.cancelled_batches],
      [3, `key ${root.keyId}`, 1],
    );
    assert.equal((await caller.post('/message/send', send)).status, 401, 'the instance that revokes refuses at once');
    await until('the other instance refuses it too', async () => {
      return (await callWith(created.secret, other).post('/message/send', send)).status === 401;
    });
    const again = await callWith(root.key, other).post(`/v1/keys/${keyId}:revoke`, {});
    assert.deepEqual(again.body, { key: revoked.body.key, cancelled_batches: 0 });
    const unknown = await root.post('/v1/keys/aaaaaaaaaaaaaaaa:revoke', {});
    assert.deepEqual([unknown.status, unknown.body.error.details[0].reason], [404, 'KEY_NOT_FOUND']);
  });

  test('a key grants at most what its creator has', async () => {
    const hourAhead = Date.now() + 3600_000;
    const iso = (ms: number) => new Date(ms).toISOString();
    const bound = await callerOf(['send', 'admin'], {
      senders: ['news', 'alerts'],
      ratePerSecond: 100,
      expiresAt: hourAhead,
    });
    const token = await new SignJWT({ scope: 'send read admin' })
      .setProtectedHeader({ alg: 'HS256' })
      .setSubject('ann')
      .setIssuer('https://issuer.test')
      .setAudience('sendbatch')
      .setExpirationTime('5m')
      .sign(secret);
    const user = callWith(token);
    const rows: [string, typeof user, object, string][] = [
      ['another scope', bound, { scopes: ['read'] }, 'SCOPE_MISSING'],
      ['another sender', bound, { senders: ['news', 'system'] }, 'SENDER_NOT_YOURS'],
      ['a higher rate', bound, { rate_per_second: 101 }, 'INVALID_FIELD rate_per_second'],
      ['a later end', bound, { expires_at: iso(hourAhead + 1000) }, 'INVALID_FIELD expires_at'],
      ['the past', root, { expires_at: iso(Date.now() - 60_000) }, 'INVALID_FIELD expires_at'],
      ['a user that would read as others', user, { scopes: ['read'] }, 'READER_NOT_YOURS'],
      ['a user that would send as others', user, { senders: ['bob'] }, 'SENDER_NOT_YOURS'],
      ['no scope', root, { scopes: [] }, 'INVALID_FIELD scopes'],
      ['an unknown scope', root, { scopes: ['root'] }, 'INVALID_FIELD scopes[0]'],
    ];
    for (const [what, by, wish, expected] of rows) {
      const { body } = await by.post('/v1/keys', { name: what, scopes: ['send'], ...wish });
      const [info, bad] = body.error?.details ?? [];
      assert.equal([info?.reason, bad?.fieldViolations?.[0]?.field].filter(Boolean).join(' '), expected, what);
    }
    const granted = async (by: typeof user, wish: object) => {
      const { body } = await by.post('/v1/keys', { name: 'granted', scopes: ['send'], ...wish });
      const { senders, rate_per_second: rate, expires_at: end } = body.key;
      return [senders, rate, end];
    };
    assert.deepEqual(await granted(bound, {}), [['news', 'alerts'], 100, iso(hourAhead)], 'unset: as the creator');
    assert.deepEqual(await granted(bound, { senders: ['news'], rate_per_second: 1 }), [['news'], 1, iso(hourAhead)]);
    assert.deepEqual(await granted(user, {}), [['ann'], 0, undefined], 'a key outlives the token');
    assert.deepEqual(await granted(root, {}), [[], 0, undefined]);
  });

  test('the overview of each instance adds up what all instances did', async () => {
    const { body: before } = await root.get('/v1/overview');
    const from = before.intervals.at(-1)?.began_at;
    const counts = { accepted: 0, duplicates: 0 };
    const key = (index: number) => ({ ...send, client_msg_no: `overview-${index}` });
    for (const [index, of] of [service, other, other].entries()) {
      const caller = callWith(root.key, of);
      const batch = Array.from({ length: 10 }, (_, each) => key(10 * index + each));
      assert.equal((await caller.post('/message/sendbatch', batch)).status, 200);
      counts.accepted += 10;
      if (index === 2) assert.equal((await caller.post('/message/send', key(0))).status, 200);
    }
    counts.duplicates += 1;
    await callWith(root.key, other).post('/message/send', { ...key(0), payload: 'b3RoZXI=' });
    await root.get('/v1/channels/2/none');
    for (const asked of [service, other]) {
      const read = async () => (await callWith(root.key, asked).get('/v1/overview')).body;
      await until('all instances reported what they did', async () => {
        const { intervals } = await read();
        type Count = { count: number };
        const sum = (name: string) =>
          intervals.reduce((total: number, each: Record<string, number>) => total + (each[name] ?? 0), 0);
        const refused = intervals.flatMap((each: { refused: Count[] }) => each.refused);
        return (
          sum('accepted_count') >= counts.accepted &&
          sum('duplicate_count') >= counts.duplicates &&
          refused.some(({ reason }: { reason: string }) => reason === 'CLIENT_MSG_NO_REUSED') &&
          sum('refused_call_count') > 0 &&
          sum('send_count') > 0
        );
      });
      const { interval, instances, intervals, since } = await read();
      assert.equal(interval, '0.200s');
      assert.deepEqual(
        instances.map((each: { pid: number; version: string }) => [each.pid, each.version]),
        Array(2).fill([process.pid, instances[0].version]),
      );
      const quick = intervals.filter((each: { send_count: number }) => each.send_count > 0);
      for (const { send_p50_seconds: p50, send_p99_seconds: p99 } of quick) assert.ok(0 < p50 && p50 <= p99);
      assert.ok(intervals.some((each: { instances: number }) => each.instances === 2));
      for (const { began_at: beganAt } of intervals) assert.ok(Date.parse(beganAt) > Date.parse(since) - 1000);
    }
    if (from !== undefined) {
      const { body } = await root.get(`/v1/overview?since=${from}`);
      assert.equal(body.intervals[0].began_at, from);
    }
  });

  test('settings in force are listed with their sources, and secrets are not', async () => {
    const text = 'a secret of at least thirty-two bytes';
    const { settings: own } = (await import('../../src/config/index.ts')).loadConfig({
      JWT_SECRET: text,
      JWT_ISSUER: 'i',
      JWT_AUDIENCE: 'a',
      DATABASE_URL: 'postgres://user:hidden@db/sendbatch',
      LANES: '2',
    });
    const shown = await startService({ ...settings, databaseUrl: service.databaseUrl, settings: own, console: false });
    try {
      const { body } = await callWith(root.key, shown).get('/v1/settings');
      const byName = new Map<string, Record<string, unknown>>(
        body.settings.map((each: { name: string }) => [each.name, each]),
      );
      assert.doesNotMatch(JSON.stringify(body), /hidden|thirty-two/);
      const pick = (name: string) => {
        const { value, default_value: usual, source, secret: isSecret, is_set: isSet } = byName.get(name) ?? {};
        return [value, usual, source, isSecret, isSet];
      };
      assert.deepEqual(pick('LANES'), ['2', '4', 'the environment', false, true]);
      assert.deepEqual(pick('JWT_SECRET'), ['', '', 'the environment', true, true]);
      assert.deepEqual(pick('JWT_SECRET_PREVIOUS'), ['', '', 'default', true, false]);
      assert.deepEqual(pick('CONSOLE'), ['on', 'on', 'default', false, true]);
      const { body: two } = await callWith(root.key, shown).get('/v1/settings?names=LANES&names=PORT&names=NONE');
      assert.deepEqual(
        two.settings.map((each: { name: string }) => each.name),
        ['PORT', 'LANES'],
      );
      // This service has the console switched off.
      assert.equal((await fetch(`${shown.url}/console/`)).status, 404);
      const index = async (of: TestService) => ((await (await fetch(of.url)).json()) as { console?: string }).console;
      assert.deepEqual([await index(shown), await index(service)], [undefined, '/console/']);
    } finally {
      await shown.stop();
    }
  });
});

describe('the files of the console', () => {
  let folder: string;
  let server: Server;
  let port: number;
  const script = `console.log(${JSON.stringify('x'.repeat(5000))})`;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'sendbatch-console-'));
    const handle = createConsole([join(folder, 'absent'), join(folder, 'built')]);
    server = createServer((request, response) => {
      if (!handle(request, response)) response.writeHead(404, { 'x-elsewhere': '1' }).end();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    ({ port } = server.address() as AddressInfo);
  });
  after(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    rmSync(folder, { recursive: true });
  });
  /** `path` is sent as it is: fetch would resolve `..`. */
  const ask = async (path: string, { method = 'GET', headers = {} } = {}) => {
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    get({ port, host: '127.0.0.1', path, method, headers }, resolve).on('error', reject);
    const response = await promise;
    const chunks: Buffer[] = [];
    for await (const chunk of response) chunks.push(chunk as Buffer);
    return { status: response.statusCode, headers: response.headers, text: Buffer.concat(chunks).toString() };
  };

  test('without a build the console explains how to build it, and a later build is found', async () => {
    const { status, headers, text } = await ask('/console/');
    assert.deepEqual([status, headers['content-type']], [503, 'text/html; charset=utf-8']);
    assert.match(text, /npm run build:console/);
    mkdirSync(join(folder, 'built/assets'), { recursive: true });
    writeFileSync(
      join(folder, 'built/index.html'),
      '<link rel="icon" href="./favicon.svg"><script type="module" src="./assets/main-abc.js"></script>',
    );
    writeFileSync(join(folder, 'built/assets/main-abc.js'), script);
    writeFileSync(join(folder, 'built/favicon.svg'), '<svg/>');
    writeFileSync(join(folder, 'secret.txt'), 'outside');
    assert.equal((await ask('/console/')).status, 200);
  });

  test('every address below /console opens a page whose links lead to the same files', async () => {
    const rows = [
      ['/console/', './'],
      ['/console/batches', './'],
      ['/console/batches/0f9c?tab=results', '../'],
      ['/console/channels/2/a.b', '../../'],
      ['/console/channels/2/%E0%A4%A', '../../'],
      ['/console/channels/5/a%2Fb@c', '../../'],
      ['/console/index.html', './'],
    ];
    for (const [path = '', up] of rows) {
      const { status, headers, text } = await ask(path);
      assert.deepEqual([status, headers['content-type']], [200, 'text/html; charset=utf-8'], path);
      assert.equal(/src="(.*?)assets\//.exec(text)?.[1], up, path);
      assert.equal(new URL(`${up}favicon.svg`, `http://h${path}`).pathname, '/console/favicon.svg');
      assert.match(text, new RegExp(`href="${up}favicon`));
      assert.equal(headers['cache-control'], 'no-cache');
      const policy = String(headers['content-security-policy']);
      assert.match(policy, /default-src 'none'; script-src 'self'; style-src 'self'/);
      assert.match(policy, /frame-ancestors 'none'/);
      assert.doesNotMatch(policy, /unsafe|http|\*/);
    }
    const { status, headers } = await ask('/console?lang=zh');
    assert.deepEqual([status, headers.location], [302, 'console/?lang=zh']);
    for (const path of ['/consoles', '/', '/docs/console/'])
      assert.equal((await ask(path)).headers['x-elsewhere'], '1', path);
    assert.equal((await ask('/console/', { method: 'POST' })).headers['x-elsewhere'], '1');
  });

  test('files are compressed, cached by their kind, and revalidated by their ETag', async () => {
    const path = '/console/assets/main-abc.js';
    const plain = await ask(path);
    assert.equal(plain.text, script);
    assert.equal(plain.headers['cache-control'], 'public, max-age=31536000, immutable');
    assert.equal(plain.headers['content-type'], 'text/javascript; charset=utf-8');
    for (const [accepted, encoding] of [
      ['gzip, deflate, br', 'br'],
      ['gzip', 'gzip'],
    ] as const) {
      const response = await fetch(`http://127.0.0.1:${port}${path}`, { headers: { 'accept-encoding': accepted } });
      assert.equal(response.headers.get('content-encoding'), encoding);
      assert.ok(Number(response.headers.get('content-length')) < 200);
      assert.equal(await response.text(), script);
    }
    const again = await ask(path, { headers: { 'if-none-match': String(plain.headers.etag) } });
    assert.deepEqual([again.status, again.text], [304, '']);
    const head = await ask(path, { method: 'HEAD' });
    assert.deepEqual([head.status, head.headers['content-length'], head.text], [200, String(script.length), '']);
    const icon = await ask('/console/favicon.svg');
    assert.deepEqual([icon.headers['cache-control'], icon.headers['content-type']], ['no-cache', 'image/svg+xml']);
  });

  test('a file outside of the build is not served', async () => {
    for (const path of [
      '/console/assets/none.js',
      '/console/assets/../../secret.txt',
      '/console/assets/..%2F../secret.txt',
      '/console/..%2F/secret.txt',
      '/console/assets/%2e%2e/%2e%2e/secret.txt',
    ]) {
      const { status, text } = await ask(path);
      assert.doesNotMatch(text, /outside/, path);
      if (path.includes('/assets/')) assert.equal(status, 404, path);
    }
  });
});
