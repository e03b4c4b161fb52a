import { loadConfig, type SettingInForce, settingsInForce } from '../config.ts';
import { parseOptions, UsageError } from './usage.ts';

const usage = 'config [--json]';

/**
 * Prints every setting: what it is and where that is set, its default and bounds, its meaning. With one that cannot be, all are printed before the
 * ConfigError says so.
 */
export function runConfigCommand(args: readonly string[]): number {
  const { values, positionals } = parseOptions(args, { json: { type: 'boolean' } }, usage);
  if (positionals.length > 0) throw new UsageError(usage);
  const settings = settingsInForce();
  console.log(values.json === true ? JSON.stringify(settings, undefined, 2) : settings.map(inLines).join('\n'));
  for (const warning of loadConfig().warnings) console.error(`sendbatch: ${warning}`);
  return 0;
}

function inLines({ name, value, source, default: usual, bounds, doc }: SettingInForce): string {
  const now = source === 'default' ? shown(value) : `${shown(value)}  (${source})`;
  return `${name} = ${now}\n    ${doc}\n    default ${shown(usual)}; ${bounds.replaceAll('`', '')}`;
}

function shown(value: string): string {
  return value === '' ? 'unset' : value;
}
