import { lookup as systemLookup } from 'node:dns';
import type { LookupFunction } from 'node:net';
import ipaddr from 'ipaddr.js';

/** A connection was not made, since it would have led where webhooks may not go. */
export class AddressRefused extends Error {}

/** Whether an address is on the public internet: what is loopback, private, link-local (the metadata services of clouds), shared, multicast, reserved or a way into one of these is not. */
export function isPublic(address: string): boolean {
  if (!ipaddr.isValid(address)) return false;
  // An IPv4 address within IPv6 is looked at as the one that it is.
  const parsed = ipaddr.process(address);
  if (parsed.range() !== 'unicast') return false;
  // Of IPv6 only what is given out to the internet, 2000::/3: old ways to write IPv4 addresses are outside of it.
  return !(parsed instanceof ipaddr.IPv6) || ((parsed.parts[0] ?? 0) & 0xe000) === 0x2000;
}

/** What is wrong with the URL of a webhook; undefined: nothing that is known without asking the DNS. */
export function urlFault(text: string, allowPrivate: boolean): string | undefined {
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
  if (isLocalName || (ipaddr.isValid(host) && !isPublic(host)))
    return `must lead to a public address, not ${host}; WEBHOOK_ALLOW_PRIVATE=on allows any address`;
  return undefined;
}

function hostOf(url: URL): string {
  return url.hostname.replace(/^\[(.*)\]$/, '$1');
}

/**
 * A look-up for connections that are to reach public addresses alone: the connection is made to what it answers, and nothing is asked twice, so that a name cannot lead to one address when it is
 * checked and to another when it is used. A name with a single private address is refused. An address in place of a name is never looked up: `urlFault` is asked for those.
 */
export function publicLookup(lookup: typeof systemLookup = systemLookup): LookupFunction {
  return (hostname, options, callback) => {
    lookup(hostname, { ...options, all: true }, (error, addresses) => {
      if (error !== null) return callback(error, '', 0);
      const refused = addresses.find(({ address }) => !isPublic(address));
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
