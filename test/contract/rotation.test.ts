import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import http2 from 'node:http2';
import { Agent, request as httpsRequest } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import tls from 'node:tls';
import { Code, createClient } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from '@connectrpc/connect-node';
import { SignJWT } from 'jose';
import { ChannelType } from '../../gen/sendbatch/v1/message_pb.ts';
import { MessageService } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { ConfigError, loadConfig } from '../../src/config/index.ts';
import { samplesOf, sumOf } from '../support/metrics.ts';
import { openClients, type ProtocolClient, said } from '../support/protocols.ts';
import { startService, type TestService } from '../support/service.ts';
import { until } from '../support/watch.ts';

const work = mkdtempSync(join(tmpdir(), 'sendbatch-rotation-'));
after(() => rmSync(work, { recursive: true, force: true }));

/** Interval at which these tests check the files. */
const everyMs = 50;
const issuer = 'https://issuer.test';
const audience = 'sendbatch';
const tokenSettings = { JWT_ISSUER: issuer, JWT_AUDIENCE: audience };
const secretOf = (name: string) => `the ${name} secret, of at least thirty-two bytes`;

async function bearer(secret: string, sub = 'u1'): Promise<Record<string, string>> {
  const token = await new SignJWT({ sub, iss: issuer, aud: audience, exp: Math.floor(Date.now() / 1000) + 300 })
    .setProtectedHeader({ alg: 'HS256' })
    .sign(new TextEncoder().encode(secret));
  return { authorization: `Bearer ${token}` };
}

/** Loads the configuration parts that these tests use. */
function rotating(env: Record<string, string>) {
  const { requiresCredential, open, identity, tls, reload } = loadConfig({ DATABASE_URL: 'postgres://unused', ...env });
  return { requiresCredential, open, identity, tls, reload: { ...reload, everyMs } };
}

let sent = 0;
const draft = () => ({
  channelId: 'rotation',
  channelType: ChannelType.GROUP,
  fromUid: 'u1',
  clientMsgNo: `k${sent++}`,
  payload: Buffer.from('x'),
});

const sumOfPage = (page: string, files: string, outcome: string) =>
  sumOf(samplesOf(page), 'sendbatch_reloads_total', { files, outcome });

/** Replaces a file atomically by a rename, as most programs do. */
function replaceFile(path: string, text: string): void {
  writeFileSync(`${path}.new`, text);
  renameSync(`${path}.new`, path);
}

describe('the rotation of JWT_SECRET', () => {
  const current = join(work, 'secret');
  const previous = join(work, 'previous');
  let service: TestService;
  let protocolClients: ProtocolClient[];
  before(async () => {
    writeFileSync(current, `${secretOf('second')}\n`);
    writeFileSync(previous, secretOf('first'));
    service = await startService(
      rotating({ JWT_SECRET_FILE: current, JWT_SECRET_PREVIOUS_FILE: previous, ...tokenSettings }),
    );
    protocolClients = openClients(service.url);
  });
  after(async () => {
    for (const protocolClient of protocolClients) protocolClient.close();
    await service.stop();
  });

  async function assertAccepts(accepted: readonly string[], refused: readonly string[]): Promise<void> {
    for (const protocolClient of protocolClients) {
      for (const name of accepted)
        assert.equal(
          said(await protocolClient.send({ messages: [draft()] }, { headers: await bearer(secretOf(name)) })),
          'ok',
        );
      for (const name of refused) {
        const answer = await protocolClient.send({ messages: [draft()] }, { headers: await bearer(secretOf(name)) });
        assert.equal(said(answer), 'call: CREDENTIAL_INVALID', `${protocolClient.name}: ${name}`);
      }
    }
  }
  const isAccepted = async (name: string) => {
    const [protocolClient] = protocolClients;
    return (
      said(
        (await protocolClient?.send({ messages: [draft()] }, { headers: await bearer(secretOf(name)) })) as never,
      ) === 'ok'
    );
  };

  test('tokens of the current and previous JWT secret are accepted on every protocol, others are not', async () => {
    await assertAccepts(['first', 'second'], ['third', '']);
  });

  test('a token of the previous JWT secret that is expired or has another audience is refused', async () => {
    const sign = async (claims: object) =>
      await new SignJWT({ sub: 'u1', iss: issuer, aud: audience, exp: 4_000_000_000, ...claims })
        .setProtectedHeader({ alg: 'HS256' })
        .sign(new TextEncoder().encode(secretOf('first')));
    for (const claims of [{ exp: 1_000_000_000 }, { aud: 'other' }, { iss: 'other' }])
      for (const protocolClient of protocolClients) {
        const headers = { authorization: `Bearer ${await sign(claims)}` };
        assert.equal(said(await protocolClient.send({ messages: [draft()] }, { headers })), 'call: CREDENTIAL_INVALID');
      }
  });

  test('a file with an invalid or missing JWT secret is counted as a failure and keeps the previous secret', async () => {
    replaceFile(current, 'short');
    const failures = async () => sumOfPage(await service.metrics(), 'token_secrets', 'failed');
    await until('the failure is counted', async () => (await failures()) > 0);
    await assertAccepts(['first', 'second'], ['third']);
    rmSync(current);
    const before = await failures();
    await until('a missing file is counted as a failure', async () => (await failures()) > before + 1);
    await assertAccepts(['first', 'second'], ['third']);
  });

  test('changed JWT secrets apply without a restart and end streams of tokens with a removed secret', async () => {
    const transports = {
      grpc: createGrpcTransport({ baseUrl: service.url }),
      'grpc-web': createGrpcWebTransport({ baseUrl: service.url, httpVersion: '2' }),
      connect: createConnectTransport({ baseUrl: service.url, httpVersion: '2' }),
    };
    const opened = Object.entries(transports).map(([protocol, transport]) => {
      const caughtUp = Promise.withResolvers<void>();
      const ended = (async () => {
        const frames = createClient(MessageService, transport).subscribe(
          { channels: [{ channelType: ChannelType.PERSON, channelId: 'u1@u2' }] },
          { headers: await bearer(secretOf('first')) },
        );
        for await (const { frame } of frames) if (frame.case === 'caughtUp') caughtUp.resolve();
      })();
      ended.catch(caughtUp.reject);
      return { protocol, caughtUp: caughtUp.promise, ended };
    });
    await Promise.all(opened.map(({ caughtUp }) => caughtUp));

    replaceFile(previous, secretOf('second'));
    replaceFile(current, secretOf('third'));
    await until('the new secret is accepted', () => isAccepted('third'));
    await until('the oldest one is refused', async () => !(await isAccepted('first')));
    await assertAccepts(['second', 'third'], ['first']);
    for (const { protocol, ended } of opened) await assert.rejects(ended, { code: Code.Unauthenticated }, protocol);

    replaceFile(previous, '');
    await until('an empty file ends the overlap', async () => !(await isAccepted('second')));
    await assertAccepts(['third'], ['first', 'second']);
  });
});

describe('settings of the rotation', () => {
  test('JWT_SECRET_PREVIOUS requires JWT_SECRET and at least 32 bytes', () => {
    const refusal = (env: Record<string, string>, message: RegExp) =>
      assert.throws(
        () => loadConfig({ DATABASE_URL: 'postgres://unused', ...tokenSettings, ...env }),
        (error) => error instanceof ConfigError && message.test(error.message),
      );
    refusal({ JWT_SECRET_PREVIOUS: secretOf('first') }, /^JWT_SECRET_PREVIOUS requires JWT_SECRET$/);
    refusal(
      { JWT_SECRET: secretOf('second'), JWT_SECRET_PREVIOUS: 'short' },
      /^JWT_SECRET_PREVIOUS must have at least 32 bytes, not 5$/,
    );
  });

  test('JWT secrets in the environment are not reloaded', () => {
    const { reload } = loadConfig({ DATABASE_URL: 'postgres://unused', JWT_SECRET: secretOf('x'), ...tokenSettings });
    assert.deepEqual(reload, {});
  });
});

const fixture = (name: string) => readFileSync(join(import.meta.dirname, '../support/certificates', name), 'utf8');
const first = { key: fixture('localhost-key.pem'), cert: fixture('localhost-cert.pem') };
const second = { key: fixture('client-key.pem'), cert: fixture('client-cert.pem') };

/** Creates a folder like a Kubernetes secret mount: links through a link that updates swap. */
function mountSecret(name: string) {
  const folder = join(work, name);
  let version = 0;
  mkdirSync(folder);
  const put = (files: { readonly key: string; readonly cert: string }) => {
    const data = `..v${version++}`;
    mkdirSync(join(folder, data));
    writeFileSync(join(folder, data, 'tls.key'), files.key);
    writeFileSync(join(folder, data, 'tls.crt'), files.cert);
    symlinkSync(data, join(folder, '..tmp'));
    renameSync(join(folder, '..tmp'), join(folder, '..data'));
  };
  put(first);
  for (const file of ['tls.key', 'tls.crt']) symlinkSync(join('..data', file), join(folder, file));
  return { put, env: { TLS_KEY: join(folder, 'tls.key'), TLS_CERT: join(folder, 'tls.crt') } };
}

function rotatingFiles(name: string) {
  const env = { TLS_KEY: join(work, `${name}.key`), TLS_CERT: join(work, `${name}.crt`) };
  writeFileSync(env.TLS_KEY, first.key);
  writeFileSync(env.TLS_CERT, first.cert);
  return { env };
}

/** Returns the certificate's SHA-256 on a new connection, and whether the session was resumed. */
async function certificateOf(
  url: string,
  session?: Buffer,
): Promise<{ sha: string; session: Buffer; reused: boolean }> {
  const { promise, resolve, reject } = Promise.withResolvers<{ sha: string; session: Buffer; reused: boolean }>();
  const socket = tls.connect({
    port: Number(new URL(url).port),
    host: '127.0.0.1',
    rejectUnauthorized: false,
    ALPNProtocols: ['http/1.1'],
    maxVersion: 'TLSv1.2',
    ...(session === undefined ? {} : { session }),
  });
  socket.once('error', reject);
  socket.once('secureConnect', () => {
    const { fingerprint256: sha } = socket.getPeerCertificate();
    resolve({ sha, session: socket.getSession() ?? Buffer.alloc(0), reused: socket.isSessionReused() });
    socket.destroy();
  });
  return await promise;
}

describe('the rotation of TLS_KEY and TLS_CERT', () => {
  const fingerprints = Object.fromEntries(
    Object.entries({ first, second }).map(([name, { cert }]) => [name, new X509Certificate(cert).fingerprint256]),
  );
  const client = { key: second.key, cert: second.cert };
  const mount = mountSecret('mounted');
  const authorities = join(work, 'ca.pem');
  let service: TestService;
  before(async () => {
    writeFileSync(authorities, fixture('client-ca.pem'));
    service = await startService(rotating({ ...mount.env, TLS_CLIENT_CA: authorities }));
  });
  after(async () => await service.stop());

  const presents = async (name: string) => (await certificateOf(service.url)).sha === fingerprints[name];
  const post = async (agent: Agent, certificate: object = client): Promise<number> => {
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    const request = httpsRequest(`${service.url}/message/sendbatch`, {
      method: 'POST',
      rejectUnauthorized: false,
      agent,
      ...certificate,
    });
    request.on('response', (response) => {
      response.resume();
      response.on('end', () => resolve(response.statusCode ?? 0));
    });
    request.on('error', reject);
    request.end(
      JSON.stringify([
        { from_uid: 'u1', channel_id: 'rotation', channel_type: 2, client_msg_no: `w${sent++}`, payload: 'SGk=' },
      ]),
    );
    return await promise;
  };

  test('after a certificate rotation new connections get the new certificate and open ones stay', async () => {
    assert.ok(await presents('first'));
    const { session } = await certificateOf(service.url);
    assert.equal((await certificateOf(service.url, session)).reused, true, 'a session can be resumed');
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    assert.equal(await post(agent), 200);
    const transport = createGrpcTransport({
      baseUrl: service.url,
      nodeOptions: { rejectUnauthorized: false, ...client },
    });
    const api = createClient(MessageService, transport);
    const events: string[] = [];
    const abort = new AbortController();
    const following = (async () => {
      const channels = [{ channelType: ChannelType.GROUP, channelId: 'rotation' }];
      for await (const { frame } of api.subscribe({ channels }, { signal: abort.signal })) {
        if (frame.case === 'caughtUp') events.push('caught up');
        if (frame.case === 'message') events.push(frame.value.clientMsgNo);
      }
    })();
    following.catch((error) => events.push(String(error)));
    await until(`the reader has caught up: ${events}`, () => events.includes('caught up'));

    mount.put(second);
    await until('new connections get the new certificate', () => presents('second'));
    assert.equal(
      sumOf(samplesOf(await service.metrics()), 'sendbatch_tls_certificate_expiry_timestamp_seconds'),
      new X509Certificate(second.cert).validToDate.getTime() / 1000,
    );
    const resumed = await certificateOf(service.url, session);
    assert.deepEqual([resumed.reused, resumed.sha], [false, fingerprints.second], 'no old session is resumed');

    await api.sendBatch({ messages: [{ ...draft(), clientMsgNo: 'after the rotation' }] });
    await until(`the open stream continues: ${events}`, () => events.includes('after the rotation'));
    assert.equal(await post(agent), 200, 'the kept-alive connection is used again');
    abort.abort();
    agent.destroy();
  });

  test('client certificates are requested and verified after a certificate rotation', async () => {
    const fresh = () => new Agent({ keepAlive: false });
    assert.ok(await presents('second'));
    assert.equal(await post(fresh()), 200);
    assert.equal(await post(fresh(), first), 401, 'a certificate of another authority');
    assert.equal(await post(fresh(), {}), 401, 'none');
    const session = http2.connect(service.url, { rejectUnauthorized: false });
    await new Promise((resolve, reject) => session.once('connect', resolve).once('error', reject));
    assert.equal(session.alpnProtocol, 'h2');
    session.close();
  });

  test('a key that does not match its certificate is counted as a failure and keeps the old pair', async () => {
    const failures = async () => sumOfPage(await service.metrics(), 'tls', 'failed');
    for (const broken of [
      { key: first.key, cert: second.cert },
      { key: first.key, cert: 'nothing' },
      { key: '', cert: first.cert },
    ]) {
      const before = await failures();
      mount.put(broken);
      await until('the failure is counted', async () => (await failures()) > before);
      assert.ok(await presents('second'));
    }
    mount.put(first);
    await until('a valid pair is used afterwards', () => presents('first'));
  });

  test('a certificate file replaced by a rename or rewritten in place is reloaded', async () => {
    const renamed = rotatingFiles('renamed');
    const other = await startService(rotating(renamed.env));
    const has = async (name: string) => (await certificateOf(other.url)).sha === fingerprints[name];
    assert.ok(await has('first'));
    // Like tools without a symlink: between the two writes the pair does not match.
    replaceFile(renamed.env.TLS_CERT, second.cert);
    replaceFile(renamed.env.TLS_KEY, second.key);
    await until('the renamed pair is in use', () => has('second'));
    writeFileSync(renamed.env.TLS_CERT, first.cert);
    writeFileSync(renamed.env.TLS_KEY, first.key);
    await until('the pair that was written in place is in use', () => has('first'));
    await other.stop();
  });
});
