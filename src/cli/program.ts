/**
 * The command line `sendbatch`.
 *
 * Entry point: `run`, called by src/main.ts with the arguments. A command is loaded when it is
 * called, from commands/.
 *
 * Folders: commands/ (one file or folder per command), input/ (reads and checks files of messages),
 * send-file/ (sends one, resumable), output/ (stdout, stderr, the progress bar).
 *
 * Invariants:
 *  1. stdout has the result, for pipes; stderr has notes, the progress bar and errors.
 *  2. An expected error is one line on stderr that says what to do; an unexpected one keeps its
 *     stack.
 *  3. Text from files and services is escaped before it is printed: it cannot control the terminal.
 */
import { Command, CommanderError } from 'commander';
import { version } from '../app/version.ts';
import { ConfigError } from '../config/index.ts';
import { FileError } from '../message-files/file-error.ts';
import { fsErrorMessages } from './input/fs-error-messages.ts';
import { endQuietlyWithReader, plain, print, visible } from './output/output.ts';
import { CommandError, exit, withExamples } from './usage.ts';

const about = `
send, tail, batch, channel and template call the service at --url (SENDBATCH_URL) with the credential --token
(SENDBATCH_TOKEN). serve, key, verify, shards, migrate and health use the settings of the service; config prints them.
NO_COLOR disables colors.

Exit codes:
  0    success
  1    error, or an invalid command line
  2    send, batch watch: some messages were refused; verify: violations found; migrate --status: migrations pending
  130  interrupted (Ctrl-C)

Examples:
  sendbatch serve
  sendbatch send messages.ndjson
  sendbatch tail group group123
  sendbatch help send

In a checkout: npm start for serve, npm run cli -- <command> for the others.`;

/**
 * Runs a command line and sets the exit code. Expected errors are printed in one line on stderr.
 */
export async function run(args: readonly string[]): Promise<void> {
  endQuietlyWithReader();
  try {
    const line = args.length === 0 ? ['serve'] : args;
    const program = await createProgram(line[0] ?? '');
    await program.parseAsync(line, { from: 'user' });
  } catch (error) {
    // Commander has printed its text: help and version are success, help because of a missing
    // subcommand is not.
    if (error instanceof CommanderError && error.code === 'commander.help' && error.exitCode !== 0)
      fail('a command is missing; the commands are listed above');
    else if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? exit.done : exit.failed;
    else if (isOfSystem(error)) fail(describeSystemError(error));
    else if (error instanceof CommandError || error instanceof FileError || error instanceof ConfigError)
      fail(error.message);
    else fail(await describeCallError(error));
  }
}

/** Describes an error of a call in one line. Any other error is thrown again, with its stack. */
async function describeCallError(error: unknown): Promise<string> {
  const { ConnectError } = await import('@connectrpc/connect');
  if (!(error instanceof ConnectError)) throw error;
  const { describe } = await import('./connect.ts');
  return describe(error);
}

/**
 * In the order of the help. Only the called command is loaded, which keeps `version` at 0.1 s
 * instead of 0.4 s; the help loads all.
 */
const commands: Record<string, () => Promise<(program: Command) => void>> = {
  serve: async () => addServe,
  send: async () => (await import('./commands/send.ts')).addSend,
  tail: async () => (await import('./commands/tail.ts')).addTail,
  batch: async () => (await import('./commands/batch/index.ts')).addBatch,
  channel: async () => (await import('./commands/channel.ts')).addChannel,
  template: async () => (await import('./commands/template.ts')).addTemplate,
  key: async () => (await import('./commands/key.ts')).addKey,
  verify: async () => (await import('./commands/verify.ts')).addVerify,
  shards: async () => (await import('./commands/shards.ts')).addShards,
  migrate: async () => (await import('./commands/migrate.ts')).addMigrate,
  health: async () => (await import('./commands/health.ts')).addHealth,
  config: async () => (await import('./commands/config.ts')).addConfig,
  version: async () => addVersion,
};

/**
 * Creates the program with the called command, or with all commands if there is no such command.
 */
export async function createProgram(called: string): Promise<Command> {
  const program = new Command('sendbatch')
    .description('A batch message service and its command line. Without a command it runs serve.')
    .version(version, '-V, --version', 'print the version')
    .exitOverride()
    .configureOutput({ outputError: (text, write) => write(visible(inOneLine(text))) })
    .showSuggestionAfterError(true)
    .addHelpText('after', about);
  const named = commands[called];
  for (const load of named === undefined ? Object.values(commands) : [named]) (await load())(program);
  return program;
}

function addServe(program: Command): void {
  const command = program
    .command('serve')
    .summary('run the service: gRPC, gRPC-Web, Connect and JSON on one port')
    .description(
      'Runs the service until SIGTERM or SIGINT: the first signal lets calls in flight finish, a second one exits at once. Settings come from the environment; config prints them.',
    );
  withExamples(
    command,
    [
      'sendbatch serve',
      'PORT=8080 DATABASE_URL=postgres://localhost/chat sendbatch serve',
      'LOG_FORMAT=json sendbatch serve | jq -r .msg',
    ],
    '0 stopped by a signal; 1 the service could not start or stop (stderr says why), or a second signal arrived',
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

/** Turns `error: unknown option '--x'` with a suggestion on the next line into one line. */
function inOneLine(text: string): string {
  const words = text
    .replace(/^error: /, '')
    .replace(/^command-argument value '(.*)' is invalid for argument '(.*?)'\./s, "argument '<$2>' '$1' is invalid.")
    .trim()
    .split('\n')
    .map((line) => line.trim())
    .join(' ');
  return `sendbatch: ${words} (see --help)\n`;
}

/** Whether an error comes from the operating system, such as a file that cannot be read. */
function isOfSystem(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && 'syscall' in error && 'code' in error && /^E[A-Z]+$/.test(String(error.code));
}

/** Describes `ENOENT: no such file or directory, open 'x'` in the words of the other errors. */
function describeSystemError({ code = '', path, message }: NodeJS.ErrnoException): string {
  // Opening a folder succeeds and reading it fails, with an error that names no path.
  const file = path ?? (code === 'EISDIR' ? 'the given path' : undefined);
  const reason = fsErrorMessages[code];
  return file === undefined || reason === undefined ? message : `${file} ${reason}`;
}

function fail(message: string): void {
  console.error(`sendbatch: ${plain(message)}`);
  process.exitCode = exit.failed;
}
