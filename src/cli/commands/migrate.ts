import type { Command } from 'commander';
import { loadConfig } from '../../config/index.ts';
import { openingSchema } from '../database.ts';
import { print, safeJson, visible } from '../output/output.ts';
import { exit } from '../usage.ts';

const about = `
A step of its own where MIGRATE=check: before the first instance of a new version starts. Without it (MIGRATE=auto) a start does this.

Exit codes: 0 done; 1 failed; 2 with --status: something is pending.

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
    .summary('bring the schema of the database up to date')
    .description('Brings the schema of the database up to date, and says what was applied. Settings as for serve.')
    .option('--status', 'only list what is applied and what is pending')
    .option('--json', 'machine-readable')
    .addHelpText('after', about)
    .action(async (options: MigrateOptions) => {
      process.exitCode = await run(options);
    });
}

async function run({ status: onlyStatus, json }: MigrateOptions): Promise<number> {
  return await openingSchema(loadConfig(), async (schema) => {
    const say = async (value: object, lines: readonly string[]) =>
      await print(json ? safeJson(JSON.stringify(value)) : visible(lines.join('\n')));
    if (onlyStatus) {
      const status = await schema.status();
      const lines = Object.entries(status).flatMap(([state, names]) =>
        (names as readonly string[]).map((name) => `${state.padEnd(7)}  ${name}`),
      );
      await say(status, lines);
      return status.pending.length > 0 ? exit.refused : exit.done;
    }
    const applied = await schema.migrate();
    const { applied: all, newer } = await schema.status();
    const nothing = `nothing to apply: the schema has all ${all.length} migrations${newer.length > 0 ? `, and ${newer.length} of newer versions` : ''}`;
    await say({ applied }, applied.length > 0 ? applied.map((name) => `applied  ${name}`) : [nothing]);
    return exit.done;
  });
}
