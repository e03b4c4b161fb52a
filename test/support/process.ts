import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { CommandLine } from './command-host.ts';
import { endWithFile } from './file-end.ts';
import { compiled, main } from './program.ts';

/** The service in its own process, started as from the package. */
export interface ServiceProcess {
  readonly url: string;
  readonly child: ChildProcess;
  /** Everything that it printed. */
  output(): string;
  /**
   * Sends a signal and waits for the end; resolves with the exit code, or null when the signal
   * ended it.
   */
  end(signal: NodeJS.Signals): Promise<number | null>;
}

/** Starts the service and waits until it listens; rejects with its output when it ends before. */
export async function spawnService(
  env: Record<string, string>,
  cwd?: string,
  program: string = main,
): Promise<ServiceProcess> {
  const { child, output, exit } = launch(env, [], cwd, 'ignore', program);
  const url = await new Promise<string>((resolve, reject) => {
    if (child.stdout === null) return reject(new Error('no stdout'));
    createInterface(child.stdout).on('line', (line) => {
      const listening = line.startsWith('{') ? (JSON.parse(line) as { msg?: string; url?: string }) : {};
      if (listening.msg === 'listening' && listening.url !== undefined) resolve(listening.url);
    });
    exit.then((code) => reject(new Error(`the service ended with ${code}: ${output()}`)), reject);
  });
  return {
    url,
    child,
    output,
    async end(signal) {
      child.kill(signal);
      return await exit;
    },
  };
}

/** Runs a start that must fail, or a command, to its end. */
export async function runToEnd(
  env: Record<string, string>,
  args: string[] = [],
  cwd?: string,
  input?: string | Buffer,
): Promise<{ code: number | null; output: string; stdout: string }> {
  const { child, output, stdout, exit } = launch(env, args, cwd, input === undefined ? 'ignore' : 'pipe');
  child.stdin?.end(input);
  return { code: await exit, output: output(), stdout: stdout() };
}

export function spawnCommand(env: Record<string, string>, args: string[]) {
  return launch(env, args, undefined);
}

/** The process that runs the commands of this file, started for the first of them. */
let host: ChildProcess | undefined;
let queue: Promise<unknown> = Promise.resolve();
const endMark = '\0';

/**
 * Runs a command to its end like `runToEnd`, in one process for all commands of a file.
 * A command that reads stdin or is killed needs a process of its own.
 */
export function runCommand(
  env: Record<string, string>,
  args: string[],
  cwd: string = import.meta.dirname,
): ReturnType<typeof runToEnd> {
  const result = queue.then(() => carryOut({ args, env: environmentOf(env), cwd, endMark }));
  queue = result.catch(() => {});
  return result;
}

async function carryOut(line: CommandLine): ReturnType<typeof runToEnd> {
  host ??= startHost();
  const { stdout, stderr } = host;
  const channel = host.channel;
  if (stdout === null || stderr === null || !channel) throw new Error('the process of the commands has no pipes');
  const ending = new AbortController();
  const { signal } = ending;
  let output = '';
  let printed = '';
  let marks = 0;
  const { promise: marked, resolve } = Promise.withResolvers<void>();
  const hear = (chunk: string) => {
    marks += chunk.split(endMark).length - 1;
    output += chunk.replaceAll(endMark, '');
    if (marks === 2) resolve();
  };
  const hearPrinted = (chunk: string) => {
    printed += chunk.replaceAll(endMark, '');
    hear(chunk);
  };
  stdout.setEncoding('utf8').on('data', hearPrinted);
  stderr.setEncoding('utf8').on('data', hear);
  // A running command keeps this process alive; an idle host does not.
  const handles = [host, channel, stdout as Socket, stderr as Socket];
  for (const each of handles) each.ref();
  try {
    host.send(line);
    const code = await Promise.race([
      once(host, 'message', { signal }).then(async ([code]) => {
        await marked;
        return code as number;
      }),
      // A command may end its process.
      once(host, 'close', { signal }).then(([code]) => {
        host = undefined;
        return code as number | null;
      }),
    ]);
    return { code, output, stdout: printed };
  } finally {
    ending.abort();
    stdout.off('data', hearPrinted);
    stderr.off('data', hear);
    for (const each of handles) each.unref();
  }
}

function startHost(): ChildProcess {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'command-host.ts')], {
    // It runs the source.
    env: environmentOf({ NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE ?? '' }),
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  child.once(
    'exit',
    endWithFile(() => child.kill('SIGKILL')),
  );
  return child;
}

function launch(
  env: Record<string, string>,
  args: string[],
  cwd: string | undefined,
  stdin: 'ignore' | 'pipe' = 'ignore',
  program: string = main,
) {
  const child = spawn(process.execPath, ['--max-semi-space-size=64', program, ...args], {
    env: environmentOf(env),
    stdio: [stdin, 'pipe', 'pipe'],
    // Not the folder in which the tests run: it may contain a `.env`.
    cwd: cwd ?? import.meta.dirname,
  });
  let text = '';
  let printed = '';
  child.stdout?.on('data', (chunk: Buffer) => (printed += chunk.toString()));
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk: Buffer) => (text += chunk.toString()));
  child.once(
    'exit',
    endWithFile(() => child.kill('SIGKILL')),
  );
  const exit = once(child, 'close').then(([code]) => code as number | null);
  return { child, output: () => text, stdout: () => printed, exit };
}

function environmentOf(env: Record<string, string>): Record<string, string> {
  return {
    PATH: process.env.PATH ?? '',
    ...(process.env.SHARDS === undefined ? {} : { SHARDS: process.env.SHARDS }),
    HOME: process.env.HOME ?? '',
    PORT: '0',
    LOG_FORMAT: 'json',
    SYSTEM_UIDS: '*',
    // Requests of a test must succeed on a slow machine too.
    OVERLOAD_WAIT: '60000',
    NODE_COMPILE_CACHE: compiled,
    ...env,
  };
}
