import { Command, CommanderError } from 'commander';
import { version } from '../app/version.ts';
import { ConfigError } from '../config/index.ts';
import { fileTroubles } from './input/fs-error-messages.ts';
import { endQuietlyWithReader, plain, print } from './output/output.ts';
import { CommandError, exit, withExamples } from './usage.ts';

const about = `
Commands that call a service find it at --url (SENDBATCH_URL), with the credential --token (SENDBATCH_TOKEN). serve, key, verify,
migrate and health take the service's own settings: config prints them. NO_COLOR is heard.

Exit codes:
  0    done
  1    failed, or a wrong command line
  2    send, batch watch: some messages were refused; verify: there are faults; migrate --status: something is pending
  130  interrupted (Ctrl-C)

Examples:
  sendbatch serve
  sendbatch send messages.ndjson
  sendbatch tail group group123
  sendbatch help send

From a checkout: npm start for serve, npm run cli -- <command> for the others.`;

/** Carries out a command line: what can be said in one line is, on stderr, and the exit code is set. */
export async function run(args: readonly string[]): Promise<void> {
  endQuietlyWithReader();
  try {
    const line = args.length === 0 ? ['serve'] : args;
    const program = await createProgram(line[0] ?? '');
    await program.parseAsync(line, { from: 'user' });
  } catch (error) {
    // Its words are out already: help and version are good ends, help because a group's command is missing is not.
    if (error instanceof CommanderError && error.code === 'commander.help' && error.exitCode !== 0)
      fail('which command? They are listed above');
    else if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? exit.done : exit.failed;
    else if (isOfSystem(error)) fail(describeSystemError(error));
    else if (error instanceof CommandError || error instanceof ConfigError) fail(error.message);
    else fail(await describeCallError(error));
  }
}

/** An error of a call to a service in one line; anything else is thrown on, with its stack. */
async function describeCallError(error: unknown): Promise<string> {
  const { ConnectError } = await import('@connectrpc/connect');
  if (!(error instanceof ConnectError)) throw error;
  const { describe } = await import('./connect.ts');
  return describe(error);
}

/** In the order of the help. A command is loaded when it is called, and all of them when one has to choose: `version` takes 0.1 s, and took 0.4. */
const commands: Record<string, () => Promise<(program: Command) => void>> = {
  serve: async () => addServe,
  send: async () => (await import('./commands/send.ts')).addSend,
  tail: async () => (await import('./commands/tail.ts')).addTail,
  batch: async () => (await import('./commands/batch/index.ts')).addBatch,
  channel: async () => (await import('./commands/channel.ts')).addChannel,
  template: async () => (await import('./commands/template.ts')).addTemplate,
  key: async () => (await import('./commands/key.ts')).addKey,
  verify: async () => (await import('./commands/verify.ts')).addVerify,
  migrate: async () => (await import('./commands/migrate.ts')).addMigrate,
  health: async () => (await import('./commands/health.ts')).addHealth,
  config: async () => (await import('./commands/config.ts')).addConfig,
  version: async () => addVersion,
};

/** The program with the command that was called, or with all of them when that is none. */
export async function createProgram(called: string): Promise<Command> {
  const program = new Command('sendbatch')
    .description('A batch message service, and its command line. Without a command it serves.')
    .version(version, '-V, --version', 'print the version')
    .exitOverride()
    .configureOutput({ outputError: (text, write) => write(inOneLine(text)) })
    .showSuggestionAfterError(true)
    .addHelpText('after', about);
  const named = commands[called];
  for (const load of named === undefined ? Object.values(commands) : [named]) (await load())(program);
  return program;
}

function addServe(program: Command): void {
  const command = program
    .command('serve')
    .summary('serve: gRPC, gRPC-Web, Connect and JSON on one port')
    .description(
      'Serves until a signal stops it: the first one lets calls end, a second one ends at once. Settings come from the environment; config prints them.',
    );
  withExamples(
    command,
    [
      'sendbatch serve',
      'PORT=8080 DATABASE_URL=postgres://localhost/chat sendbatch serve',
      'LOG_FORMAT=json sendbatch serve | jq -r .msg',
    ],
    '0 stopped by a signal, in order; 1 it cannot serve (a line says why), or a second signal ended it',
  ).action(async () => {
    const { serve } = await import('../app/serve.ts');
    await serve(fail);
  });
}

function addVersion(program: Command): void {
  withExamples(program.command('version').description('print the version'), ['sendbatch version']).action(() =>
    print(version),
  );
}

/** `error: unknown option '--x'` and a suggestion on a second line, as one line of ours. */
function inOneLine(text: string): string {
  const words = text
    .replace(/^error: /, '')
    .replace(/^command-argument value '(.*)' is invalid for argument '(.*?)'\./s, "argument '<$2>' '$1' is invalid.")
    .trim()
    .split('\n')
    .map((line) => line.trim())
    .join(' ');
  return `sendbatch: ${words} (--help says more)\n`;
}

/** A file that cannot be read or written, and the like: the message names it. */
function isOfSystem(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && 'syscall' in error && 'code' in error && /^E[A-Z]+$/.test(String(error.code));
}

/** `ENOENT: no such file or directory, open 'x'` in the words of the other errors. */
function describeSystemError({ code = '', path, message }: NodeJS.ErrnoException): string {
  // A folder can be opened, and only reading it fails: that error names nothing.
  const file = path ?? (code === 'EISDIR' ? 'what was given as a file' : undefined);
  const trouble = fileTroubles[code];
  return file === undefined || trouble === undefined ? message : `${file} ${trouble}`;
}

function fail(message: string): void {
  console.error(`sendbatch: ${plain(message)}`);
  process.exitCode = exit.failed;
}
