// Runs command lines for a test file one after the other, in one process: most of what a command
// costs is loading it. Each has its own environment, folder and exit code, and ends when nothing
// keeps the event loop, as it would end a process of its own.
import { globalAgent } from 'node:http';
import { run } from '../../src/cli/program.ts';

export interface CommandLine {
  readonly args: string[];
  readonly env: Record<string, string>;
  readonly cwd: string;
  /** What the command wrote to stdout and to stderr. */
  readonly endMark: string;
}

let current: CommandLine | undefined;

process.on('message', (line: CommandLine) => {
  current = line;
  for (const name of Object.keys(process.env)) delete process.env[name];
  Object.assign(process.env, line.env);
  process.chdir(line.cwd);
  process.exitCode = undefined;
  process.channel?.unref();
  void run(line.args);
});

process.on('beforeExit', (code) => {
  if (current === undefined || !process.connected) return;
  const { endMark } = current;
  current = undefined;
  process.channel?.ref();
  process.stdout.removeAllListeners('error');
  globalAgent.destroy();
  process.stdout.write(endMark);
  process.stderr.write(endMark);
  process.send?.(code);
});
