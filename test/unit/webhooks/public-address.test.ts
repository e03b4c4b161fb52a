import assert from 'node:assert/strict';
import type { lookup } from 'node:dns';
import { after, before, describe, test } from 'node:test';
import { createPoster, type Poster } from '../../../src/webhooks/post.ts';
import { findUrlFault, isPublicAddress } from '../../../src/webhooks/public-address.ts';
import { type Receiver, startReceiver } from '../../support/receiver.ts';

describe('addresses that webhooks may reach', () => {
  test('only public addresses are allowed, in IPv4, IPv6 and mixed forms', () => {
    const refused = [
      ...[
        '0.0.0.0',
        '10.1.2.3',
        '100.64.0.1',
        '127.0.0.1',
        '127.255.0.9',
        '169.254.169.254',
        '172.16.0.1',
        '172.31.255.255',
      ],
      ...['192.0.0.1', '192.168.1.1', '198.18.0.1', '224.0.0.1', '240.0.0.1', '255.255.255.255', 'nonsense', ''],
      ...[
        '::',
        '::1',
        'fe80::1',
        'fc00::1',
        'fd00:ec2::254',
        'ff02::1',
        'fec0::1',
        '2001:db8::1',
        '2002:7f00:1::',
        '2001::1',
      ],
      ...['::ffff:127.0.0.1', '::ffff:a00:1', '::127.0.0.1', '64:ff9b::7f00:1', '::ffff:0:127.0.0.1', 'fe80::1%eth0'],
    ];
    for (const address of refused) assert.equal(isPublicAddress(address), false, address);
    for (const address of ['1.1.1.1', '93.184.216.34', '172.32.0.1', '2606:4700::1111', '::ffff:1.1.1.1'])
      assert.equal(isPublicAddress(address), true, address);
  });

  test('a webhook URL must be https and lead to a public address, however the address is written', () => {
    const refused: [string, RegExp][] = [
      ['nonsense', /must be a URL/],
      ['ftp://example.com/', /https URL/],
      ['file:///etc/passwd', /https URL/],
      ['http://example.com/', /https URL; WEBHOOK_ALLOW_PRIVATE=on allows http/],
      ['https://a:b@example.com/', /not have a user or password/],
      ['https://example.com/#x', /not have a fragment/],
      ...[
        'localhost',
        'LOCALHOST.',
        'a.localhost',
        '127.0.0.1',
        '127.1',
        '2130706433',
        '0x7f.0.0.1',
        '0177.0.0.1',
        '[::1]',
        '[::ffff:127.0.0.1]',
        '[fd00::1]',
      ].map((host): [string, RegExp] => [`https://${host}:8443/x`, /must lead to a public address/]),
    ];
    for (const [url, fault] of refused) assert.match(findUrlFault(url, false) ?? 'none', fault, url);
    for (const url of ['https://example.com/hook?a=b', 'https://1.1.1.1/', 'https://[2606:4700::1111]/'])
      assert.equal(findUrlFault(url, false), undefined, url);
    for (const url of ['http://127.0.0.1:1/', 'https://localhost/', 'http://10.0.0.1/'])
      assert.equal(findUrlFault(url, true), undefined);
  });

  describe('connections of webhooks', () => {
    let receiver: Receiver;
    let poster: Poster;
    let port: string;
    const lookups: string[] = [];
    /** Names of a DNS under an attacker's control. */
    const names: Record<string, { address: string; family: number }[]> = {
      'inside.example': [{ address: '127.0.0.1', family: 4 }],
      'mixed.example': [
        { address: '93.184.216.34', family: 4 },
        { address: '::1', family: 6 },
      ],
      'mapped.example': [{ address: '::ffff:169.254.169.254', family: 6 }],
    };
    before(async () => {
      receiver = await startReceiver();
      port = new URL(receiver.url).port;
      const resolve = ((name: string, _options: object, callback: (error: Error | null, found: unknown) => void) => {
        lookups.push(name);
        callback(null, names[name] ?? []);
      }) as unknown as typeof lookup;
      poster = createPoster({ timeoutMs: 2000, allowPrivate: false, userAgent: 'test', lookup: resolve });
    });
    after(async () => {
      await poster.close();
      await receiver.close();
    });
    const post = (url: string) =>
      poster.post({ url, format: 'standard', secrets: [], id: 'msg_1', body: '{}' }, new AbortController().signal);

    test('a name that resolves to a private address is not connected to', async () => {
      for (const name of Object.keys(names)) {
        const posted = await post(`https://${name}:${port}/`);
        assert.deepEqual([posted.verdict, posted.status], ['retry', 0]);
        assert.match(posted.error, new RegExp(`^${name} resolves to .*not a public address$`));
      }
      assert.deepEqual(lookups, Object.keys(names), 'one lookup per name');
    });

    test('a private address in the URL is not connected to, and costs no DNS lookup', async () => {
      for (const host of ['127.0.0.1', '[::1]', '[::ffff:7f00:1]', '2130706433']) {
        const posted = await post(`https://${host}:${port}/`);
        assert.match(posted.error, /^the URL must lead to a public address/);
      }
      assert.deepEqual(receiver.received, []);
    });
  });
});
