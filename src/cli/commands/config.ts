import type { Command } from 'commander';
import { loadConfig, type SettingInForce, settingsInForce } from '../../config/index.ts';
import { note, print, printJson, visible } from '../output/output.ts';
import { withExamples } from '../usage.ts';

/** Prints every setting. An invalid one is reported after all were printed. */
export function addConfig(program: Command): void {
  const command = program
    .command('config')
    .summary('print every setting: value and source, default, bounds, meaning')
    .description(
      'Prints every setting with its value, the source of the value, its default, bounds and meaning. Secrets are masked.',
    )
    .option('--json', 'print JSON');
  withExamples(
    command,
    ['sendbatch config', `sendbatch config --json | jq -r '.[] | select(.source != "default") | .name'`],
    '0 success, 1 a setting is invalid (all settings are printed first)',
  ).action(async ({ json }: { readonly json?: boolean }) => {
    const settings = settingsInForce();
    if (json) await printJson(JSON.stringify(settings, undefined, 2));
    else await print(visible(settings.map(textOf).join('\n')));
    for (const warning of loadConfig().warnings) note(`sendbatch: ${warning}`);
  });
}

function textOf({ name, value, source, default: usual, bounds, doc }: SettingInForce): string {
  const now = source === 'default' ? shown(value) : `${shown(value)}  (${source})`;
  return `${name} = ${now}\n    ${doc}\n    default ${shown(usual)}; ${bounds.replaceAll('`', '')}`;
}

function shown(value: string): string {
  return value === '' ? 'unset' : value;
}
