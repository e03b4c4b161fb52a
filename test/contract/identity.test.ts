import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Code, createClient } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from '@connectrpc/connect-node';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';
import { ServerReflection } from '../../gen/grpc/reflection/v1/reflection_pb.ts';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { MessageService, SendMode } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { createKeys, type Keys, type KeyWish, keyMemoryMs } from '../../src/auth/api-keys.ts';
import type { Scope } from '../../src/messages/caller.ts';
import type { Db } from '../../src/postgres/schema.ts';
import { guardedServices, scopeOf } from '../../src/rpc/interceptors/authenticate.ts';
import { openStore } from '../support/database.ts';
import { jsonCaller } from '../support/json.ts';
import { type Answer, openClients, type ProtocolClient } from '../support/protocols.ts';
import { startService, type TestService } from '../support/service.ts';
import { readAll } from '../support/verify.ts';

const secret = new TextEncoder().encode('a secret of at least thirty-two bytes');
const issuer = 'https://issuer.test';
const audience = 'sendbatch';
const tokens = {
  key: { secrets: { current: [secret] } },
  algorithms: ['HS256'],
  issuer,
  audience,
  scopes: ['send', 'read'] as const,
};
const asking = { requiresCredential: true, open: false, identity: { tokens, certificateScopes: undefined } };

interface TokenOptions {
  readonly sub?: string;
  /** Other claims, of any type. */
  readonly claims?: Record<string, unknown>;
  readonly scope?: string;
  readonly iss?: string;
  readonly aud?: string;
  /** Expiry in Unix seconds. Default: in five minutes. */
  readonly expires?: number;
  readonly key?: Uint8Array;
}
async function token({
  sub = 'u1',
  claims = {},
  scope,
  iss = issuer,
  aud = audience,
  expires,
  key = secret,
}: TokenOptions = {}) {
  const exp = typeof expires === 'number' ? expires : Math.floor(Date.now() / 1000) + 300;
  return await new SignJWT({ sub, iss, aud, exp, ...(scope === undefined ? {} : { scope }), ...claims })
    .setProtectedHeader({ alg: 'HS256' })
    .sign(key);
}
const bearer = (credential: string) => ({ authorization: `Bearer ${credential}` });
let sent = 0;
const draft = (fromUid: string) => ({
  channelId: 'identity',
  channelType: ChannelType.GROUP,
  fromUid,
  clientMsgNo: `k${sent++}`,
  payload: Buffer.from('x'),
});
/** Returns `ok` or the reason per message, or code and reason of the whole call. */
const outcomesOf = (answer: Answer) =>
  'refused' in answer
    ? `${answer.refused.code} ${answer.refused.reason}`
    : answer.results.map((result) => result.refused?.reason ?? 'ok').join(' ');

function keysOf(service: TestService): { db: Db; keys: Keys } {
  const db = openStore(service.databaseUrl);
  return { db, keys: createKeys(db) };
}

describe('authentication and scopes', () => {
  let service: TestService;
  let protocolClients: ProtocolClient[];
  let db: Db;
  let keys: Keys;
  before(async () => {
    service = await startService(asking);
    protocolClients = openClients(service.url);
    ({ db, keys } = keysOf(service));
  });
  after(async () => {
    for (const protocolClient of protocolClients) protocolClient.close();
    await db.destroy();
    await service.stop();
  });
  const keyFor = async (options: Partial<KeyWish> = {}) =>
    (await keys.create({ name: 'a service', scopes: ['send', 'read'], ...options })).key;

  test('invalid credentials get the same refusal on every protocol, and nothing is stored', async () => {
    const good = await keyFor();
    const expired = await keyFor({ expiresAt: Date.now() - 1 });
    const [, keyId] = good.split('_');
    const bad: [string, Record<string, string>][] = [
      ['unknown key', bearer(`sb_aaaaaaaaaaaaaaaa_${'A'.repeat(43)}`)],
      ['wrong secret', bearer(`sb_${keyId}_${'A'.repeat(43)}`)],
      ['expired key', bearer(expired)],
      ['not a key', bearer('sb_x')],
      ['not a scheme', { authorization: `Basic ${good}x` }],
      ['legacy header', { token: 'nonsense' }],
      ['not a token', bearer('a.b.c')],
      ['other secret', bearer(await token({ key: new TextEncoder().encode('another secret of thirty-two bytes!!') }))],
      ['other issuer', bearer(await token({ iss: 'https://other.test' }))],
      ['other audience', bearer(await token({ aud: 'other' }))],
      ['expired token', bearer(await token({ expires: Math.floor(Date.now() / 1000) - 3600 }))],
      ['no uid', bearer(await token({ sub: '' }))],
      ['an invalid uid', bearer(await token({ sub: 'a@b' }))],
      ['a number as uid', bearer(await token({ claims: { sub: 42 } }))],
      ['a list as uid', bearer(await token({ claims: { sub: ['u1'] } }))],
      ['null as uid', bearer(await token({ claims: { sub: null } }))],
      ['a lone surrogate as uid', bearer(await token({ sub: '\ud800' }))],
      ['exp as a string', bearer(await token({ claims: { exp: 'tomorrow' } }))],
      ['nbf as a string', bearer(await token({ claims: { nbf: 'now' } }))],
      ['scope of another type', bearer(await token({ claims: { scope: null } }))],
      ['scopes of another type', bearer(await token({ claims: { scope: ['send', 1] } }))],
      ['scp of another type', bearer(await token({ claims: { scope: 'send', scp: { send: true } } }))],
      ['unsigned', bearer(`${btoa('{"alg":"none"}')}.${btoa('{"sub":"u1"}')}.`.replaceAll('=', ''))],
    ];
    const texts = new Set<string>();
    for (const protocolClient of protocolClients) {
      const none = await protocolClient.send({ messages: [draft('u1')] });
      assert.equal(outcomesOf(none), 'Unauthenticated CREDENTIAL_MISSING', protocolClient.name);
      for (const [what, headers] of bad) {
        const answer = await protocolClient.send({ messages: [draft('u1')] }, { headers });
        assert.equal(outcomesOf(answer), 'Unauthenticated CREDENTIAL_INVALID', `${protocolClient.name}: ${what}`);
        if ('refused' in answer) texts.add(answer.refused.message);
      }
    }
    assert.equal(texts.size, 1, 'one text for all');
    assert.deepEqual(await readAll(service.databaseUrl), []);
  });

  test('each kind of caller may send only as its own senders, over every protocol', async () => {
    const any = await keyFor();
    const two = await keyFor({ senders: ['u1', 'u2'] });
    const callers: [string, Record<string, string>, string][] = [
      ['a key', bearer(any), 'ok ok ok'],
      ['a key in the legacy header', { token: any }, 'ok ok ok'],
      ['a key with senders', bearer(two), 'ok ok SENDER_NOT_YOURS'],
      ['a user', bearer(await token({ sub: 'u1' })), 'ok SENDER_NOT_YOURS SENDER_NOT_YOURS'],
      ['another user', bearer(await token({ sub: 'u9' })), 'SENDER_NOT_YOURS SENDER_NOT_YOURS SENDER_NOT_YOURS'],
    ];
    for (const protocolClient of protocolClients) {
      for (const [caller, headers, expected] of callers) {
        const messages = [draft('u1'), draft('u2'), draft('u3')];
        assert.equal(
          outcomesOf(await protocolClient.send({ messages, validateOnly: true }, { headers })),
          expected,
          caller,
        );
        assert.equal(
          outcomesOf(await protocolClient.send({ messages }, { headers })),
          expected,
          `${protocolClient.name}: ${caller}`,
        );
        if (expected.includes('NOT_YOURS') && !protocolClient.name.startsWith('JSON')) {
          const atomic = await protocolClient.send(
            { messages: messages.map((each) => ({ ...each, clientMsgNo: `a${sent++}` })), mode: SendMode.ATOMIC },
            { headers },
          );
          assert.equal(outcomesOf(atomic), 'PermissionDenied SENDER_NOT_YOURS');
        }
      }
    }
  });

  test('each scope permits its own routes and no others', async () => {
    const routes: [string, Scope | 'any', (call: ReturnType<typeof jsonCaller>) => Promise<{ status: number }>][] = [
      ['send', 'send', (call) => call.post('/message/send', { ...jsonDraft('u1'), client_msg_no: `s${sent++}` })],
      ['batch', 'send', (call) => call.post('/message/sendbatch', [jsonDraft('u1')])],
      [
        'broadcast',
        'send',
        (call) => call.post('/message/sendbatch', { from_uid: 'u1', subscribers: ['a'], payload: 'SGk=' }),
      ],
      ['history', 'read', (call) => call.get('/v1/channels/2/identity/messages')],
      ['channel', 'admin', (call) => call.post('/channel', { channel_id: 'scoped', channel_type: 2 })],
      ['members', 'admin', (call) => call.get('/v1/channels/2/scoped/members')],
      ['system uids', 'admin', (call) => call.get('/user/systemuids')],
      ['info', 'any', (call) => call.get('/v1/server-info')],
    ];
    for (const scope of ['send', 'read', 'admin', 'metrics'] as const) {
      const call = jsonCaller(service.url, bearer(await keyFor({ scopes: [scope] })));
      for (const [what, needed, request] of routes)
        assert.equal(
          (await request(call)).status,
          needed === 'any' || needed === scope ? 200 : 403,
          `${what} with ${scope}`,
        );
    }
    for (const [what, , request] of routes) assert.equal((await request(jsonCaller(service.url))).status, 401, what);
    const plain = jsonCaller(service.url, bearer(await token({ sub: 'u1', scope: 'openid send' })));
    assert.equal((await plain.post('/message/sendbatch', [jsonDraft('u1')])).status, 200);
    assert.equal((await plain.get('/v1/channels/1/u1@u2/messages')).status, 403);
  });

  test('a token grants the scopes of its scope or scp claim that JWT_SCOPES allows', async () => {
    const statuses = async (claims: Record<string, unknown>) => {
      const call = jsonCaller(service.url, bearer(await token({ sub: 'u1', claims })));
      const sent = await call.post('/message/sendbatch', [jsonDraft('u1')]);
      const read = await call.get('/v1/channels/1/u1@u2/messages');
      const administered = await call.post('/channel', { channel_id: 'seized', channel_type: 2 });
      const scraped = await call.get('/metrics');
      return [sent.status, read.status, administered.status, scraped.status];
    };
    assert.deepEqual(await statuses({}), [200, 200, 403, 403]);
    assert.deepEqual(await statuses({ scope: 'admin' }), [403, 403, 403, 403]);
    assert.deepEqual(await statuses({ scope: 'send read admin metrics' }), [200, 200, 403, 403]);
    assert.deepEqual(await statuses({ scope: ['read', 'admin'] }), [403, 200, 403, 403]);
    assert.deepEqual(await statuses({ scp: ['send'] }), [200, 403, 403, 403]);
    assert.deepEqual(await statuses({ scp: 'read openid' }), [403, 200, 403, 403]);
    assert.deepEqual(await statuses({ scope: '' }), [403, 403, 403, 403]);
    assert.deepEqual(await statuses({ scope: [] }), [403, 403, 403, 403]);
  });

  test('a token whose subject is a system uid of the settings or of AddSystemUids is refused', async () => {
    const ruled = await startService({
      ...asking,
      systemUids: ['system', '____system'],
      databaseUrl: service.databaseUrl,
    });
    const admin = jsonCaller(ruled.url, bearer(await keyFor({ scopes: ['admin'] })));
    await admin.post('/user/systemuids_add', { uids: ['announcer'] });
    for (const sub of ['system', '____system', 'announcer']) {
      const call = jsonCaller(ruled.url, bearer(await token({ sub })));
      await until(async () => (await call.post('/message/sendbatch', [jsonDraft(sub)])).status === 401);
      assert.equal((await call.get('/v1/channels/2/identity/messages')).status, 401, sub);
    }
    const call = jsonCaller(ruled.url, bearer(await keyFor()));
    assert.equal((await call.post('/message/sendbatch', [jsonDraft('system')])).status, 200, 'a service may');
    await ruled.stop();
  });

  test('an open stream ends soon after its key is revoked or its token expires, on every protocol', async () => {
    const short = await token({ sub: 'u1', expires: Math.floor(Date.now() / 1000) + 3 });
    const { key, keyId } = await keys.create({ name: 'reader', scopes: ['read', 'send'] });
    const { key: other } = await keys.create({ name: 'other reader', scopes: ['read'] });
    const path = '/v1/channels/1/u1@u2/events';
    const events = (credential: string) => fetch(`${service.url}${path}`, { headers: bearer(credential) });
    const [ofKey, ofToken, ofOther] = [await events(key), await events(short), await events(other)];
    const others = ofOther.body?.getReader();
    await keys.revoke(keyId);
    for (const response of [ofKey, ofToken]) assert.match(await response.text(), /CREDENTIAL_INVALID/);
    assert.equal((await events(key)).status, 401, 'a reconnecting reader is refused');
    const rpcs = ['grpc', 'grpc-web', 'connect'] as const;
    const created = await Promise.all(rpcs.map(() => keys.create({ name: 'rpc reader', scopes: ['read'] })));
    const ends = rpcs.map(async (protocol, index) => {
      const frames = subscribeOver(protocol, service.url, created[index]?.key ?? '');
      await assert.rejects(
        async () => {
          for await (const frame of frames)
            if (frame.frame.case === 'caughtUp') await keys.revoke(created[index]?.keyId ?? '');
        },
        { code: Code.Unauthenticated },
        protocol,
      );
    });
    const { key: asking, keyId: askingId } = await keys.create({ name: 'reflection', scopes: ['read'] });
    const reflection = createClient(ServerReflection, createGrpcTransport({ baseUrl: service.url }));
    const asked = Promise.withResolvers<void>();
    const questions = async function* () {
      yield { messageRequest: { case: 'listServices' as const, value: '' } };
      await asked.promise;
    };
    const reflected = assert.rejects(
      async () => {
        for await (const _ of reflection.serverReflectionInfo(questions(), { headers: bearer(asking) }))
          await keys.revoke(askingId);
      },
      { code: Code.Unauthenticated },
      'reflection',
    );
    await Promise.all([...ends, reflected]);
    asked.resolve();
    const first = await others?.read();
    assert.equal(first?.done, false, 'the stream of a valid key continues');
    await others?.cancel();
  });

  test('a call whose key is revoked while its body arrives stores nothing, on every protocol', async () => {
    const { key, keyId } = await keys.create({ name: 'slow sender', scopes: ['read', 'send'] });
    const events = await fetch(`${service.url}/v1/channels/1/u1@u2/events`, { headers: bearer(key) });
    const draft = JSON.stringify({ from_uid: 'slow', channel_id: 'slow', channel_type: 2, payload: 'eA==' });
    const uploads: [string, string, string[]][] = [
      ['/message/sendbatch', 'application/json', ['[', `${draft}]`]],
      ['/sendbatch.v1.MessageService/SendBatch', 'application/json', ['{"messages":[', `${draft}]}`]],
      ['/v1/batches', 'application/x-ndjson', [`${draft}\n`, `${draft}\n`]],
    ];
    const began = performance.now();
    const calls = uploads.map(([path, type, [first = '', rest = '']]) => {
      const body = new TransformStream<Uint8Array, Uint8Array>();
      const writer = body.writable.getWriter();
      const headers = { ...bearer(key), 'content-type': type };
      const init = { method: 'POST', headers, body: body.readable, duplex: 'half' } as RequestInit;
      const answer = fetch(service.url + path, init);
      void writer.write(Buffer.from(first));
      return { path, answer, rest, writer };
    });
    const call = jsonCaller(service.url, bearer(key));
    await keys.revoke(keyId);
    // The last to notice is the watch over streams.
    assert.match(await events.text(), /CREDENTIAL_INVALID/);
    while (performance.now() - began < 1.5 * keyMemoryMs) await call.get('/v1/server-info');
    for (const { path, answer, rest, writer } of calls) {
      void writer.write(Buffer.from(rest)).then(() => writer.close());
      const response = await answer;
      assert.match(await response.text(), /CREDENTIAL_INVALID/, path);
      assert.equal(response.status, 401, path);
    }
    assert.ok((await readAll(service.databaseUrl)).every((row) => row.fromUid !== 'slow'));
  });

  test('only GetRoute and GetServerInfo are open to every scope', () => {
    const open = guardedServices.flatMap((guarded) =>
      guarded.methods.filter((method) => scopeOf(method) === 'any').map((method) => method.name),
    );
    assert.deepEqual(open, ['GetRoute', 'GetServerInfo']);
  });

  test('a user reads only its own channels', async () => {
    const admin = jsonCaller(service.url, bearer(await keyFor({ scopes: ['admin'] })));
    await admin.post('/channel', { channel_id: 'club', channel_type: 2, subscribers: ['u1'] });
    const read = async (sub: string, path: string) =>
      (await jsonCaller(service.url, bearer(await token({ sub }))).get(path)).status;
    assert.deepEqual(
      [
        await read('u1', '/v1/channels/2/club/messages'),
        await read('u2', '/v1/channels/2/club/messages'),
        await read('u1', '/v1/channels/1/u1@u2/messages'),
        await read('u2', '/v1/channels/1/u1@u2/messages'),
        await read('u3', '/v1/channels/1/u1@u2/messages'),
      ],
      [200, 403, 200, 200, 403],
    );
  });

  test('a single send without from_uid is sent as the user of the token', async () => {
    const call = jsonCaller(service.url, bearer(await token({ sub: 'u7' })));
    const { status } = await call.post('/message/send', { channel_id: 'u8', channel_type: 1, payload: 'SGk=' });
    assert.equal(status, 200);
    const rows = await readAll(service.databaseUrl);
    assert.ok(rows.some((row) => row.fromUid === 'u7'));
  });

  test('a revoked key is refused once its cached result expires, even right after it was used', async () => {
    const { key, keyId } = await keys.create({ name: 'short', scopes: ['send'] });
    const call = jsonCaller(service.url, bearer(key));
    assert.equal((await call.post('/message/sendbatch', [jsonDraft('u1')])).status, 200);
    assert.equal(await keys.revoke(keyId), true);
    assert.equal(await keys.revoke(keyId), false);
    const revoked = performance.now();
    for (let status = 200; status !== 401; ) {
      const calledAfter = performance.now() - revoked;
      ({ status } = await call.post('/message/sendbatch', [jsonDraft('u1')]));
      assert.ok(status === 401 || calledAfter < 1.5 * keyMemoryMs, `${status} to a call after ${calledAfter} ms`);
    }
  });

  test('a 401 answer has a WWW-Authenticate header', async () => {
    const response = await fetch(`${service.url}/message/sendbatch`, {
      method: 'POST',
      body: JSON.stringify([jsonDraft('u1')]),
    });
    assert.deepEqual([response.status, response.headers.get('www-authenticate')], [401, 'Bearer realm="sendbatch"']);
  });

  test('a preflight needs no credential', async () => {
    const response = await fetch(`${service.url}/message/sendbatch`, {
      method: 'OPTIONS',
      headers: {
        origin: service.url,
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'authorization',
      },
    });
    assert.equal(response.status, 204);
    assert.match(response.headers.get('access-control-allow-headers') ?? '', /authorization/i);
  });
});

function subscribeOver(protocol: 'grpc' | 'grpc-web' | 'connect', baseUrl: string, credential: string) {
  const create = { grpc: createGrpcTransport, 'grpc-web': createGrpcWebTransport, connect: createConnectTransport };
  const transport = create[protocol]({ baseUrl, httpVersion: '2' });
  return createClient(MessageService, transport).subscribe(
    { channels: [{ channelType: ChannelType.PERSON, channelId: 'u1@u2' }] },
    { headers: bearer(credential) },
  );
}

/** Polls until the condition holds; the timeout of the test ends it. */
async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 50));
}

const jsonDraft = (fromUid: string) => ({
  from_uid: fromUid,
  channel_id: 'identity',
  channel_type: 2,
  client_msg_no: `w${sent++}`,
  payload: 'SGk=',
});

describe('tokens verified by the public keys of the issuer', () => {
  let issuerServer: Server;
  let service: TestService;
  const published: object[] = [];
  before(async () => {
    issuerServer = createServer((_, response) => response.end(JSON.stringify({ keys: published })));
    await new Promise<void>((resolve) => issuerServer.listen(0, '127.0.0.1', resolve));
    const { port } = issuerServer.address() as AddressInfo;
    const key = { jwksUrl: `http://127.0.0.1:${port}/keys` };
    service = await startService({
      ...asking,
      identity: { tokens: { ...tokens, key, algorithms: ['ES256'] }, certificateScopes: undefined },
    });
  });
  after(async () => {
    await service.stop();
    await new Promise((resolve) => issuerServer.close(resolve));
  });

  test('tokens signed by a published key are accepted, and only with a pinned algorithm', async () => {
    const { privateKey, publicKey } = await generateKeyPair('ES256', { extractable: true });
    published.push({ ...(await exportJWK(publicKey)), kid: 'one', alg: 'ES256' });
    const sign = async (alg: string, key: Parameters<SignJWT['sign']>[0], kid: string) =>
      await new SignJWT({})
        .setProtectedHeader({ alg, kid })
        .setSubject('u1')
        .setIssuer(issuer)
        .setAudience(audience)
        .setExpirationTime('5m')
        .sign(key);
    const send = async (credential: string) =>
      (await jsonCaller(service.url, bearer(credential)).post('/message/sendbatch', [jsonDraft('u1')])).status;
    assert.equal(await send(await sign('ES256', privateKey, 'one')), 200);
    // Algorithm confusion: the public key used as a secret of HS256.
    assert.equal(
      await send(await sign('HS256', new TextEncoder().encode(JSON.stringify(published[0]).padEnd(64)), 'one')),
      401,
    );
    const stranger = await generateKeyPair('ES256', { extractable: true });
    assert.equal(await send(await sign('ES256', stranger.privateKey, 'one')), 401);
    assert.equal(await send(await sign('ES256', stranger.privateKey, 'two')), 401);
    // A key published right after the last fetch.
    published.push({ ...(await exportJWK(stranger.publicKey)), kid: 'three', alg: 'ES256' });
    assert.equal(await send(await sign('ES256', stranger.privateKey, 'three')), 200);
  });
});

describe('a client certificate', () => {
  const file = (name: string) => readFileSync(join(import.meta.dirname, '../support/certificates', name), 'utf8');
  test('a client certificate authenticates a service, and without one of the configured authority a key is needed', async () => {
    const service = await startService({
      requiresCredential: true,
      open: false,
      identity: { tokens: undefined, certificateScopes: ['send'] },
      tls: { key: file('localhost-key.pem'), cert: file('localhost-cert.pem'), clientCa: file('client-ca.pem') },
    });
    const post = async (certificate: object) => {
      const { promise, resolve, reject } = Promise.withResolvers<number>();
      const request = httpsRequest(`${service.url}/message/sendbatch`, {
        method: 'POST',
        rejectUnauthorized: false,
        agent: false,
        ...certificate,
      });
      request.on('response', (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      });
      request.on('error', reject);
      request.end(JSON.stringify([jsonDraft('u1')]));
      return await promise;
    };
    assert.equal(await post({ key: file('client-key.pem'), cert: file('client-cert.pem') }), 200);
    assert.equal(await post({}), 401);
    assert.equal(await post({ key: file('localhost-key.pem'), cert: file('localhost-cert.pem') }), 401);
    await service.stop();
  });
});
