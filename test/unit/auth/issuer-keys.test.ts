import assert from 'node:assert/strict';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, beforeEach, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { type CryptoKey, exportJWK, generateKeyPair, type JWK, SignJWT } from 'jose';
import { createIdentify } from '../../../src/auth/identity.ts';
import { createIssuerKeys, IssuerKeysUnavailable } from '../../../src/auth/issuer-keys.ts';

const minute = 60_000;

describe('the keys of a token issuer', () => {
  let server: Server;
  let url: URL;
  let answer: (response: ServerResponse) => void;
  let fetches = 0;
  let clock = 0;
  let faults: unknown[] = [];
  before(async () => {
    server = createServer((_, response) => {
      fetches += 1;
      answer(response);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    url = new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/keys`);
  });
  after(() => new Promise((resolve) => server.close(resolve)));
  beforeEach(() => {
    fetches = 0;
    clock = 1_000_000;
    faults = [];
  });
  const publish = (...keys: JWK[]) => {
    answer = (response) => response.end(JSON.stringify({ keys }));
  };
  const fail = (status: number, body = '') => {
    answer = (response) => response.writeHead(status).end(body);
  };
  const open = () =>
    createIssuerKeys(url, {
      cooldownMs: 20,
      timeoutMs: 500,
      now: () => clock,
      onFault: (error) => faults.push(error),
    });
  const find = (keys: ReturnType<typeof open>, kid?: string) =>
    Promise.resolve(keys({ alg: 'ES256', ...(kid === undefined ? {} : { kid }) }, { payload: '', signature: '' }));
  const key = async (kid: string) => {
    const { publicKey, privateKey } = await generateKeyPair('ES256', { extractable: true });
    return { jwk: { ...(await exportJWK(publicKey)), kid, alg: 'ES256' }, privateKey };
  };

  test('expired keys stay in use while the issuer is unreachable, and are refreshed when it is back', async () => {
    const [one, two] = [await key('one'), await key('two')];
    publish(one.jwk);
    const keys = open();
    await find(keys, 'one');
    fail(503);
    clock += 20 * minute;
    await find(keys, 'one');
    await until(() => faults.length === 1);
    publish(one.jwk, two.jwk);
    clock += minute;
    await find(keys, 'one');
    await find(keys, 'two');
    assert.equal(faults.length, 1);
    fail(503);
    clock += 25 * 60 * minute;
    await assert.rejects(find(keys, 'one'), IssuerKeysUnavailable, 'a day later nothing vouches for the key');
  });

  test('a key rotated in right after a fetch is found by waiting for the next fetch, which all callers share', async () => {
    const [one, two] = [await key('one'), await key('two')];
    publish(one.jwk);
    const keys = open();
    await find(keys, 'one');
    publish(one.jwk, two.jwk);
    await Promise.all([1, 2, 3].map(() => find(keys, 'two')));
    assert.equal(fetches, 2);
    await assert.rejects(find(keys, 'three'), { code: 'ERR_JWKS_NO_MATCHING_KEY' });
  });

  test('an answer that is not a key set is the issuer’s error, and is reported once', async () => {
    // Packed once: packing per request takes longer than a fetch may on a loaded machine.
    const packed = gzipSync(Buffer.alloc(64 << 20));
    const wrong: [string, (response: ServerResponse) => void][] = [
      ['the discovery document', (response) => response.end(JSON.stringify({ issuer: 'x', jwks_uri: 'y' }))],
      ['no JSON', (response) => response.end('<html>')],
      ['a redirect', (response) => response.writeHead(302, { location: '/elsewhere' }).end()],
      ['an error', (response) => response.writeHead(500).end()],
      ['a cut answer', (response) => response.writeHead(200, { 'content-length': '10' }).end('x')],
      ['a huge answer', (response) => response.end(' '.repeat(2 * 1024 * 1024))],
      ['a packed huge answer', (response) => response.writeHead(200, { 'content-encoding': 'gzip' }).end(packed)],
    ];
    for (const [what, respond] of wrong) {
      answer = respond;
      faults = [];
      const keys = open();
      await assert.rejects(find(keys, 'one'), IssuerKeysUnavailable, what);
      await assert.rejects(find(keys, 'one'), IssuerKeysUnavailable, what);
      clock += 10_000;
      await assert.rejects(find(keys, 'one'), IssuerKeysUnavailable, what);
      assert.equal(faults.length, 1, what);
    }
  });

  test('a failing issuer is requested once per pause, however many callers arrive', async () => {
    fail(500);
    const keys = open();
    await Promise.allSettled(Array.from({ length: 50 }, () => find(keys, 'one')));
    assert.equal(fetches, 1);
  });

  test('a token without a key id is verified with each key of the set', async () => {
    const [one, two] = [await key('one'), await key('two')];
    publish(one.jwk, two.jwk);
    const rules = { key: { jwksUrl: url.href }, algorithms: ['ES256'], issuer: 'i', audience: 'a', scopes: ['send'] };
    const identify = await createIdentify(
      { tokens: { ...rules, scopes: ['send'] }, certificateScopes: undefined },
      { identifyKey: async () => undefined, isSystemUid: async () => false },
    );
    const sign = async (privateKey: CryptoKey) =>
      await new SignJWT({})
        .setProtectedHeader({ alg: 'ES256' })
        .setSubject('u1')
        .setIssuer('i')
        .setAudience('a')
        .setExpirationTime('5m')
        .sign(privateKey);
    const identified = async (privateKey: CryptoKey) =>
      await identify(new Headers({ authorization: `Bearer ${await sign(privateKey)}` }), undefined);
    assert.equal((await identified(one.privateKey)).name, 'u1');
    assert.equal((await identified(two.privateKey)).name, 'u1');
    await assert.rejects(identified((await key('three')).privateKey), { message: /not valid/ });
  });
});

/** Resolves when the condition holds; the test's own timeout ends the wait. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setImmediate(resolve));
}
