import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { createOriginCheck } from '../../../src/server/origin-check.ts';

const open = createOriginCheck({ open: true, allowedOrigins: 'default' });
const listed = createOriginCheck({ open: true, allowedOrigins: ['https://app.example.com'] });
const anyOrigin = createOriginCheck({ open: false, allowedOrigins: ['*'] });

describe('Host without authentication', () => {
  for (const host of [
    'localhost',
    'localhost:5001',
    'LOCALHOST:1',
    'a.localhost',
    '127.0.0.1:5001',
    '127.9.9.9',
    '[::1]:5001',
  ])
    test(`without authentication the Host ${host} passes`, () =>
      assert.equal(open({ method: 'POST', headers: { host } }).kind, 'pass'));
  for (const host of [
    'evil.example',
    'evil.example:5001',
    'localhost.evil.example',
    '127.0.0.1.evil.example',
    '10.0.0.1',
    '0.0.0.0',
    '[::2]',
    '',
    'notlocalhost',
  ])
    test(`without authentication the Host ${host || '(empty)'} is refused`, () =>
      assert.equal(open({ method: 'POST', headers: { host } }).kind, 'refuse'));
  test(':authority of HTTP/2 is checked like Host', () => {
    assert.equal(open({ method: 'POST', headers: { ':authority': 'evil.example' } }).kind, 'refuse');
    assert.equal(open({ method: 'POST', headers: { ':authority': 'localhost' } }).kind, 'pass');
  });
  test('a request without Host, as in HTTP/1.0, passes', () =>
    assert.equal(open({ method: 'POST', headers: {} }).kind, 'pass'));
  test('with AUTH=off any Host passes', () =>
    assert.equal(anyOrigin({ method: 'POST', headers: { host: 'a.example' } }).kind, 'pass'));
});

describe('Origin', () => {
  const rows: [string, typeof open, string, string, 'pass' | 'refuse'][] = [
    ['loopback', open, 'http://localhost:3000', 'localhost:5001', 'pass'],
    ['loopback by address', open, 'http://127.0.0.1', 'localhost:5001', 'pass'],
    ['loopback over IPv6', open, 'http://[::1]:8080', 'localhost:5001', 'pass'],
    ['another site', open, 'https://evil.example', 'localhost:5001', 'refuse'],
    ['a name that starts like loopback', open, 'http://localhost.evil.example', 'localhost:5001', 'refuse'],
    ['null, of a sandboxed page', open, 'null', 'localhost:5001', 'refuse'],
    ['a file', open, 'file://', 'localhost:5001', 'refuse'],
    ['a browser extension', open, 'chrome-extension://abc', 'localhost:5001', 'refuse'],
    ['one that is listed', listed, 'https://app.example.com', 'localhost:5001', 'pass'],
    ['one that is not listed', listed, 'https://app.example.com:444', 'localhost:5001', 'refuse'],
    ['loopback when others are listed', listed, 'http://localhost:3000', 'localhost:5001', 'refuse'],
    ['any when * is', anyOrigin, 'https://any.example', 'a.example', 'pass'],
    [
      'its own',
      createOriginCheck({ open: false, allowedOrigins: 'default' }),
      'https://a.example:5001',
      'a.example:5001',
      'pass',
    ],
  ];
  rows.push(['its own when others are listed', listed, 'http://localhost:5001', 'localhost:5001', 'pass']);
  for (const [what, check, origin, host, kind] of rows)
    test(`the Origin check of ${what}: ${kind}`, () =>
      assert.equal(check({ method: 'POST', headers: { origin, host } }).kind, kind));

  test('the answer allows the page of an allowed Origin to read it', () => {
    const verdict = open({ method: 'POST', headers: { origin: 'http://localhost:3000', host: 'localhost' } });
    assert.ok(verdict.kind === 'pass');
    assert.equal(verdict.headers['access-control-allow-origin'], 'http://localhost:3000');
    assert.match(verdict.headers['access-control-expose-headers'] ?? '', /grpc-status.*x-request-id/i);
    assert.equal(verdict.headers.vary, 'Origin');
  });

  test('a preflight allows the headers and methods that the protocols need', () => {
    const headers = {
      origin: 'http://localhost:3000',
      host: 'localhost',
      'access-control-request-method': 'POST',
      'access-control-request-private-network': 'true',
    };
    const verdict = open({ method: 'OPTIONS', headers });
    assert.ok(verdict.kind === 'preflight');
    assert.match(
      verdict.headers['access-control-allow-headers'] ?? '',
      /connect-protocol-version.*authorization.*idempotency-key/i,
    );
    assert.match(verdict.headers['access-control-allow-methods'] ?? '', /POST.*GET/);
    assert.equal(verdict.headers['access-control-allow-private-network'], 'true');
    assert.equal(open({ method: 'OPTIONS', headers: { ...headers, origin: 'https://evil.example' } }).kind, 'refuse');
  });

  test('a page of the service itself is recognized by Sec-Fetch-Site behind a proxy that changes the Host', () => {
    const check = createOriginCheck({ open: false, allowedOrigins: ['https://app.example.com'] });
    const headers = { origin: 'https://messages.example.com', host: 'sendbatch.internal:5001' };
    assert.equal(check({ method: 'POST', headers }).kind, 'refuse');
    assert.equal(check({ method: 'POST', headers: { ...headers, 'sec-fetch-site': 'same-origin' } }).kind, 'pass');
    // http:// and https:// of one host are different origins.
    const other = { origin: 'http://a.example', host: 'a.example', 'sec-fetch-site': 'cross-site' };
    assert.equal(check({ method: 'POST', headers: other }).kind, 'refuse');
  });

  test('a preflight allows the headers of monitoring libraries, and those that an allowed page requests', () => {
    const asked = 'baggage,sentry-trace, X-Requested-With,traceparent,tracestate,x-amzn-trace-id,x-custom,bad name,';
    const verdict = open({
      method: 'OPTIONS',
      headers: {
        origin: 'http://localhost:3000',
        host: 'localhost',
        'access-control-request-method': 'POST',
        'access-control-request-headers': asked,
      },
    });
    assert.ok(verdict.kind === 'preflight');
    const allowed = (verdict.headers['access-control-allow-headers'] ?? '').split(', ');
    for (const name of [
      'baggage',
      'sentry-trace',
      'x-requested-with',
      'traceparent',
      'tracestate',
      'x-amzn-trace-id',
      'x-custom',
    ])
      assert.ok(allowed.includes(name), name);
    assert.ok(!allowed.includes('bad name') && !allowed.includes(''));
    const long = open({
      method: 'OPTIONS',
      headers: {
        origin: 'http://localhost:3000',
        host: 'localhost',
        'access-control-request-method': 'POST',
        'access-control-request-headers': Array.from({ length: 1000 }, (_, index) => `x-${index}`).join(),
      },
    });
    assert.ok(long.kind === 'preflight' && !long.headers['access-control-allow-headers']?.includes('x-7'));
  });

  test('an OPTIONS request that is not a preflight passes', () => {
    assert.equal(open({ method: 'OPTIONS', headers: { origin: 'http://localhost', host: 'localhost' } }).kind, 'pass');
  });
});

describe('Fetch Metadata', () => {
  const image = { 'sec-fetch-mode': 'no-cors', 'sec-fetch-dest': 'image' };
  const tab = { 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' };
  const frame = { 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'iframe' };
  const call = '/sendbatch.v1.MessageService/ListMessages?encoding=proto&message=';
  const rows: [string, string, string, Record<string, string>, 'pass' | 'refuse'][] = [
    ['an image of another site', call, 'cross-site', image, 'refuse'],
    ['an image of another port of localhost', call, 'same-site', image, 'refuse'],
    ['a site that is not known', call, 'odd', image, 'refuse'],
    ['a link of another site to a call', '/v1/server-info', 'cross-site', tab, 'refuse'],
    ['a link of another site to the front page', '/', 'cross-site', tab, 'pass'],
    ['a link of another site to the docs', '/docs?a=b', 'cross-site', tab, 'pass'],
    ['a frame of the docs in another site', '/docs', 'cross-site', frame, 'refuse'],
    ['an image of the docs', '/docs', 'cross-site', image, 'refuse'],
    ['a path that starts like the docs', '/docsx', 'cross-site', tab, 'refuse'],
    ['a link of another site to a page of the console', '/console/channels/2/a%20b?seq=1', 'cross-site', tab, 'pass'],
    ['a frame of the console in another site', '/console/', 'cross-site', frame, 'refuse'],
    ['a path that starts like the console', '/consoles', 'cross-site', tab, 'refuse'],
    ['its own page', call, 'same-origin', image, 'pass'],
    ['the address bar', '/v1/server-info', 'none', tab, 'pass'],
  ];
  for (const [what, url, site, more, kind] of rows)
    test(`Fetch Metadata of ${what}: ${kind}`, () => {
      const headers = { host: 'localhost:5001', 'sec-fetch-site': site, ...more };
      assert.equal(open({ method: 'GET', url, headers }).kind, kind);
      assert.equal(listed({ method: 'GET', url, headers }).kind, kind);
      assert.equal(anyOrigin({ method: 'GET', url, headers }).kind, 'pass');
    });

  test('a page of an allowed Origin may call across sites', () => {
    const headers = { host: 'localhost:5001', 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'cors' };
    const origin = 'https://app.example.com';
    assert.equal(listed({ method: 'GET', url: call, headers: { ...headers, origin } }).kind, 'pass');
    assert.equal(open({ method: 'GET', url: call, headers: { ...headers, origin } }).kind, 'refuse');
  });
});
