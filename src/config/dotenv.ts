import { parseEnv } from 'node:util';
import { ConfigError } from './text.ts';

const assignment = /^[ \t]*(?:export[ \t]+)?([A-Za-z_][\w.-]*)[ \t]*=[ \t]*(["'`]?)/;
const nothing = /^[ \t]*(?:#.*)?$/;

/**
 * Reads `NAME=value` lines as Node does, and refuses a text that Node would read in part only. Values may be secrets: of a line that is none, its number is
 * said, and its name when it has one.
 */
export function parseDotenv(text: string, path: string): NodeJS.Dict<string> {
  const lines = text.replaceAll('\r\n', '\n').split('\n');
  const seen = new Map<string, number>();
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at] ?? '';
    const place = `${path} line ${at + 1}`;
    if (line.includes('\r')) throw new ConfigError(`${place} has a carriage return within: end lines with LF or CRLF`);
    if (nothing.test(line)) continue;
    const [matched, name = '', quote = ''] = assignment.exec(line) ?? [];
    if (matched === undefined) throw new ConfigError(`${place} is not NAME=value${oddName(line)}`);
    const before = seen.get(name);
    if (before !== undefined) throw new ConfigError(`${place} sets ${name} again, after line ${before}`);
    seen.set(name, at + 1);
    let rest = line.slice(matched.length);
    if (quote === '') {
      if (/\S#/.test(rest.replace(/\s#.*$/, '')))
        throw new ConfigError(`${place}: ${name} would end before its #: put the value in quotes`);
      continue;
    }
    // A quoted value may go over lines, to the next quote of its kind.
    if (!rest.includes(quote)) {
      at = lines.findIndex((each, index) => index > at && each.includes(quote));
      if (at === -1) throw new ConfigError(`${place}: the quote ${quote} of ${name} is not closed`);
      rest = lines[at] ?? '';
    }
    if (!nothing.test(rest.slice(rest.indexOf(quote) + 1)))
      throw new ConfigError(`${place}: ${name} has more after its closing ${quote}`);
  }
  return parseEnv(lines.join('\n'));
}

/** What stands before the `=`, quoted: it may hold what cannot be seen. */
function oddName(line: string): string {
  const end = line.indexOf('=');
  return end === -1 ? '' : `: ${JSON.stringify(line.slice(0, end))} cannot be a name`;
}
