import type { Command } from 'commander';
import { loadConfig, type SettingInForce, settingsInForce } from '../../config/index.ts';
import { note, print, printJson, visible } from '../output/output.ts';
import { withExamples } from '../usage.ts';

/** Prints every setting. With one that cannot be, all are printed before the ConfigError says so. */
export function addConfig(program: Command): void {
  const command = program
    .command('config')
    .summary('print every setting: its value and where that is set, default, bounds, meaning')
    .description(
      'Prints every setting: what it is and where that is set, its default and bounds, its meaning. Secrets are masked.',
    )
    .option('--json', 'machine-readable');
  withExamples(
    command,
    ['sendbatch config', `sendbatch config --json | jq -r '.[] | select(.source != "default") | .name'`],
    '0 done, 1 a setting cannot be (all are printed before)',
  ).action(async ({ json }: { readonly json?: boolean }) => {
    const settings = settingsInForce();
    if (json) await printJson(JSON.stringify(settings, undefined, 2));
    else await print(visible(settings.map(inLines).join('\n')));
    for (const warning of loadConfig().warnings) note(`sendbatch: ${warning}`);
  });
}

function inLines({ name, value, source, default: usual, bounds, doc }: SettingInForce): string {
  const now = source === 'default' ? shown(value) : `${shown(value)}  (${source})`;
  return `${name} = ${now}\n    ${doc}\n    default ${shown(usual)}; ${bounds.replaceAll('`', '')}`;
}

function shown(value: string): string {
  return value === '' ? 'unset' : value;
}
