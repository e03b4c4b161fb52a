import { lookup as systemLookup } from 'node:dns';
import type { LookupFunction } from 'node:net';
import ipaddr from 'ipaddr.js';

/** A connection was refused, because its address is not public. */
export class AddressRefused extends Error {}

/**
 * Whether an address is on the public internet. Not public: loopback, private, link-local (cloud
 * metadata services), shared, multicast and reserved addresses, and IPv6 forms that map to them.
 */
export function isPublicAddress(address: string): boolean {
  if (!ipaddr.isValid(address)) return false;
  // Converts an IPv4-mapped IPv6 address to IPv4.
  const parsed = ipaddr.process(address);
  if (parsed.range() !== 'unicast') return false;
  // IPv6: only global unicast, 2000::/3. Deprecated embeddings of IPv4 are outside of it.
  return !(parsed instanceof ipaddr.IPv6) || ((parsed.parts[0] ?? 0) & 0xe000) === 0x2000;
}

/** What is wrong with a webhook's URL; undefined: nothing that is visible without a DNS lookup. */
export function findUrlFault(text: string, allowPrivate: boolean): string | undefined {
  if (!URL.canParse(text)) return 'must be a URL, such as https://example.com/hook';
  const url = new URL(text);
  if (url.protocol !== 'https:' && url.protocol !== 'http:') return 'must be an https URL';
  if (url.protocol === 'http:' && !allowPrivate) return 'must be an https URL; WEBHOOK_ALLOW_PRIVATE=on allows http';
  if (url.username !== '' || url.password !== '')
    return 'must not have a user or password; the receiver verifies the signature';
  if (url.hash !== '') return 'must not have a fragment (#…)';
  if (allowPrivate) return undefined;
  const host = hostOf(url);
  const isLocalName = /^(.*\.)?localhost\.?$/i.test(host);
  if (isLocalName || (ipaddr.isValid(host) && !isPublicAddress(host)))
    return `must lead to a public address, not ${host}; WEBHOOK_ALLOW_PRIVATE=on allows any address`;
  return undefined;
}

function hostOf(url: URL): string {
  return url.hostname.replace(/^\[(.*)\]$/, '$1');
}

/**
 * Creates a DNS lookup for connections to public addresses only. The connection uses the checked
 * answer, so DNS rebinding is impossible. A name with any private address is refused. Literal
 * addresses are never looked up: `findUrlFault` checks those.
 */
export function createPublicLookup(lookup: typeof systemLookup = systemLookup): LookupFunction {
  return (hostname, options, callback) => {
    lookup(hostname, { ...options, all: true }, (error, addresses) => {
      if (error !== null) return callback(error, '', 0);
      const refused = addresses.find(({ address }) => !isPublicAddress(address));
      const [first] = addresses;
      if (refused !== undefined || first === undefined)
        return callback(
          new AddressRefused(`${hostname} resolves to ${refused?.address ?? 'nothing'}, which is not a public address`),
          '',
          0,
        );
      if (options.all === true) callback(null, addresses as never);
      else callback(null, first.address, first.family);
    });
  };
}
