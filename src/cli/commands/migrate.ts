import type { Command } from 'commander';
import { loadConfig } from '../../config/index.ts';
import { describeCitus } from '../../postgres/citus.ts';
import { openingSchema } from '../database.ts';
import { print, safeJson, visible } from '../output/output.ts';
import { exit } from '../usage.ts';

const about = `
With MIGRATE=check, run it before the first instance of a new version starts. With MIGRATE=auto, every start migrates.

Exit codes: 0 success; 1 error; 2 with --status: migrations are pending.

Examples:
  DATABASE_URL=postgres://localhost/chat sendbatch migrate
  sendbatch migrate --status --json | jq -r '.pending[]'`;

interface MigrateOptions {
  readonly status?: boolean;
  readonly json?: boolean;
}

export function addMigrate(program: Command): void {
  program
    .command('migrate')
    .summary('migrate the database schema')
    .description('Applies pending migrations and prints them. Uses the settings of serve.')
    .option('--status', 'only list applied and pending migrations')
    .option('--json', 'print JSON')
    .addHelpText('after', about)
    .action(async (options: MigrateOptions) => {
      process.exitCode = await run(options);
    });
}

async function run({ status: onlyStatus, json }: MigrateOptions): Promise<number> {
  return await openingSchema(loadConfig(), async (schema) => {
    const printStatus = async (value: object, lines: readonly string[]) =>
      await print(json ? safeJson(JSON.stringify(value)) : visible(lines.join('\n')));
    if (onlyStatus) {
      const status = await schema.status();
      const lines = Object.entries(status).flatMap(([state, names]) =>
        (names as readonly string[]).map((name) => `${state.padEnd(7)}  ${name}`),
      );
      await printStatus(status, lines);
      return status.pending.length > 0 ? exit.refused : exit.done;
    }
    const applied = await schema.migrate();
    const { applied: all, newer } = await schema.status();
    const nothing = `nothing to apply: all ${all.length} migrations are applied${newer.length > 0 ? `, and ${newer.length} of newer versions` : ''}`;
    const { citus } = schema;
    await printStatus({ applied, ...(citus === undefined ? {} : { citus }) }, [
      ...(citus === undefined ? [] : [`server   ${describeCitus(citus)}`]),
      ...(applied.length > 0 ? applied.map((name) => `applied  ${name}`) : [nothing]),
    ]);
    return exit.done;
  });
}
