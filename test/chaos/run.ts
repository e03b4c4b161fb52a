// `npm run chaos -- --minutes 10 --seed 1`: see chaos.ts. Ends with 1 on any violation.
import { parseArgs } from 'node:util';
import { runChaos, textOf } from './chaos.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
  },
});
const [minutes, seed] = [Number(values.minutes), Number(values.seed)];
if (!(minutes > 0) || !Number.isSafeInteger(seed)) {
  console.error('usage: npm run chaos -- [--minutes N] [--seed S]');
  process.exit(1);
}
console.log(`seed ${seed} (run again with --seed ${seed})`);
const report = await runChaos({ seed, runMs: minutes * 60_000, log: (line) => console.log(line) });
console.log(`\n${textOf(report)}`);
process.exit(report.violations.length === 0 ? 0 : 1);
