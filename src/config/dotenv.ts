import { parseEnv } from 'node:util';
import { ConfigError } from './text.ts';

const assignment = /^[ \t]*(?:export[ \t]+)?([A-Za-z_][\w.-]*)[ \t]*=[ \t]*(["'`]?)/;
const nothing = /^[ \t]*(?:#.*)?$/;

/**
 * Parses `NAME=value` lines as Node does, and refuses text that Node would read only in part.
 * Values may be secrets: an error names the line and the name of the variable only.
 */
export function parseDotenv(text: string, path: string): NodeJS.Dict<string> {
  const lines = text.replaceAll('\r\n', '\n').split('\n');
  const seen = new Map<string, number>();
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at] ?? '';
    const place = `${path} line ${at + 1}`;
    if (line.includes('\r')) throw new ConfigError(`${place} contains a carriage return: end lines with LF or CRLF`);
    if (nothing.test(line)) continue;
    const [matched, name = '', quote = ''] = assignment.exec(line) ?? [];
    if (matched === undefined) throw new ConfigError(`${place} is not NAME=value${invalidName(line)}`);
    const before = seen.get(name);
    if (before !== undefined) throw new ConfigError(`${place} sets ${name} again, after line ${before}`);
    seen.set(name, at + 1);
    let rest = line.slice(matched.length);
    if (quote === '') {
      if (/\S#/.test(rest.replace(/\s#.*$/, '')))
        throw new ConfigError(`${place}: ${name} would end before its #: quote the value`);
      continue;
    }
    // A quoted value may span lines, up to the next quote of its kind.
    if (!rest.includes(quote)) {
      at = lines.findIndex((each, index) => index > at && each.includes(quote));
      if (at === -1) throw new ConfigError(`${place}: the quote ${quote} of ${name} is not closed`);
      rest = lines[at] ?? '';
    }
    if (!nothing.test(rest.slice(rest.indexOf(quote) + 1)))
      throw new ConfigError(`${place}: ${name} has text after its closing ${quote}`);
  }
  return parseEnv(lines.join('\n'));
}

/** The text before the `=`, quoted: it may contain invisible characters. */
function invalidName(line: string): string {
  const end = line.indexOf('=');
  return end === -1 ? '' : `: ${JSON.stringify(line.slice(0, end))} is not a valid name`;
}
