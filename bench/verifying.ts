import { verify } from '../src/integrity/verify.ts';
import { openDatabase } from '../src/postgres/pool.ts';
import { oneShard } from '../src/postgres/shards.ts';

/** Runs `verify` as the command does; returns a line with its time, rate and faults. */
export async function timeOfVerify(url: string): Promise<string> {
  const connections = 4;
  const db = openDatabase({
    connection: { url },
    poolSize: connections,
    lockTimeoutMs: 0,
    statementTimeoutMs: 0,
    connectTimeoutMs: 60_000,
    onConnectionError: () => {},
  });
  const began = performance.now();
  let messages = 0;
  let faults = 0;
  for await (const step of verify({ db, shards: oneShard }, connections)) {
    messages = step.messages;
    faults += step.faults.length;
  }
  const seconds = (performance.now() - began) / 1000;
  await db.destroy();
  return `\`verify\` of ${messages} messages: ${seconds.toFixed(1)} s, ${Math.round(messages / seconds / 1000)} k messages/s, ${faults} faults.`;
}
