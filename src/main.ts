#!/usr/bin/env node

// Checks the version before it imports anything: an older Node cannot parse TypeScript and would
// report a syntax error.
const oldest = [22, 12] as const;
const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
if (major < oldest[0] || (major === oldest[0] && minor < oldest[1])) {
  console.error(`sendbatch: Node ${process.versions.node} is too old: ${oldest.join('.')} or later is needed`);
  process.exitCode = 1;
} else {
  const { run } = await import('./cli/program.ts');
  await run(process.argv.slice(2));
}
