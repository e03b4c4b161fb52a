import { loadConfig } from '../config.ts';
import { createLog } from '../events.ts';
import { openSchema } from '../open-server.ts';
import { parseOptions, UsageError } from './usage.ts';

const usage = 'migrate [--status] [--json]';
/** With --status: something is pending. A script can tell it from a failure. */
const pendingCode = 2;

/** Brings the schema up to date and says what was applied; with --status it only looks. */
export async function runMigrateCommand(args: readonly string[]): Promise<number> {
  const options = { status: { type: 'boolean' }, json: { type: 'boolean' } } as const;
  const { values, positionals } = parseOptions(args, options, usage);
  if (positionals.length > 0) throw new UsageError(usage);
  const print = (json: object, lines: readonly string[]) =>
    console.log(values.json === true ? JSON.stringify(json) : lines.join('\n'));
  const schema = await openSchema(loadConfig(), createLog({ level: 'silent', format: 'json' }));
  try {
    if (values.status === true) {
      const status = await schema.status();
      print(
        status,
        Object.entries(status).flatMap(([state, names]) => names.map((name: string) => `${state.padEnd(7)}  ${name}`)),
      );
      return status.pending.length > 0 ? pendingCode : 0;
    }
    const applied = await schema.migrate();
    const { applied: all, newer } = await schema.status();
    print(
      { applied },
      applied.length > 0
        ? applied.map((name) => `applied  ${name}`)
        : [
            `nothing to apply: the schema has all ${all.length} migrations${newer.length > 0 ? `, and ${newer.length} of newer versions` : ''}`,
          ],
    );
    return 0;
  } finally {
    await schema.close();
  }
}
