import { randomUUID } from 'node:crypto';
import {
  createReadStream,
  createWriteStream,
  existsSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createInterface } from 'node:readline';
import { fromJson, type JsonValue } from '@bufbuild/protobuf';
import { pathToString } from '@bufbuild/protobuf/reflect';
import { createValidator } from '@bufbuild/protovalidate';
import { MessageDraftSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import { type Draft, reasonOf } from '../client/index.ts';
import { connectOptions, connectTo } from './connect.ts';
import { parseOptions, UsageError } from './usage.ts';

const usage = `send <file.ndjson> [--url <url>] [--token <credential>] [--concurrency 4] [--json]
      a message a line, with the fields of the JSON routes; - is standard input.
      <file>.journal lets a run that was stopped go on; <file>.refused.ndjson gets the lines that were refused`;

/** Lines that are sent before the journal is written: what a killed run sends again at most, as duplicates. */
const chunkLines = 5000;

/** What a run came to. */
interface Tally {
  sent: number;
  duplicates: number;
  refused: number;
}

/** Where a run stands: its keys begin with `run`, so that a line has the same key in the next try. */
interface Journal {
  readonly run: string;
  readonly lines: number;
}

/** Sends a file of messages. Returns the exit code: 0 all went, 2 some lines were refused. */
export async function runSendCommand(
  args: readonly string[],
  defaults: { url: string; token: string },
): Promise<number> {
  const { values, positionals } = parseOptions(args, options, usage);
  const [file] = positionals;
  if (file === undefined || positionals.length !== 1) throw new UsageError(usage);
  if (file !== '-' && !existsSync(file)) throw new UsageError(`${file} is not there`);
  const concurrency = Number(values.concurrency ?? 4);
  if (!Number.isInteger(concurrency) || concurrency < 1 || concurrency > 64)
    throw new UsageError('--concurrency takes 1 to 64');
  const client = connectTo(values, defaults);
  const place = file === '-' ? 'stdin' : file;
  const journalFile = `${place}.journal`;
  const before = file === '-' ? undefined : readJournal(journalFile);
  const run = before?.run ?? randomUUID();
  const tally: Tally = { sent: 0, duplicates: 0, refused: 0 };
  const refused = createWriteStream(`${place}.refused.ndjson`, { flags: before === undefined ? 'w' : 'a' });
  const refuse = (line: number, reason: string, message: string, text: string) => {
    tally.refused++;
    refused.write(`${JSON.stringify({ line, reason, message, text })}\n`);
  };
  const bar = progressOf(file === '-' ? 0 : statSync(file).size, values.json === true);
  const note = (lines: number) => {
    if (file !== '-') writeFileSync(journalFile, JSON.stringify({ run, lines } satisfies Journal));
  };
  // Before the first line goes: a run that ends early has to go on under the same keys.
  if (before === undefined) note(0);
  let line = 0;
  let bytes = 0;
  let chunk: { line: number; text: string; draft: Draft }[] = [];
  const flush = async () => {
    const results = await client.send(
      chunk.map((each) => each.draft),
      { concurrency },
    );
    for (const [index, { line: at, text }] of chunk.entries()) {
      const result = results[index];
      if (result?.error !== undefined) refuse(at, reasonOf(result.error) ?? 'unknown', result.error.message, text);
      else if (result?.duplicate) tally.duplicates++;
      else tally.sent++;
    }
    chunk = [];
    note(line);
    bar.show(bytes, tally);
  };
  const input = file === '-' ? process.stdin : createReadStream(file);
  for await (const text of createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })) {
    line++;
    bytes += Buffer.byteLength(text) + 1;
    if (line <= (before?.lines ?? 0) || text.trim() === '') continue;
    const draft = draftOf(text);
    if (typeof draft === 'string') refuse(line, 'INVALID_LINE', draft, text);
    else
      chunk.push({ line, text, draft: draft.clientMsgNo === '' ? { ...draft, clientMsgNo: `${run}:${line}` } : draft });
    if (chunk.length === chunkLines) await flush();
  }
  await flush();
  await new Promise((resolve) => refused.end(resolve));
  if (tally.refused === 0 && before === undefined) rmSync(`${place}.refused.ndjson`, { force: true });
  rmSync(journalFile, { force: true });
  bar.end(tally);
  return tally.refused > 0 ? 2 : 0;
}

const options = { ...connectOptions, concurrency: { type: 'string' }, json: { type: 'boolean' } } as const;

const validator = createValidator();

/** The draft of a line, or what is wrong with it: a line that breaks a rule would make its whole call malformed. */
function draftOf(text: string) {
  try {
    const draft = fromJson(MessageDraftSchema, JSON.parse(text) as JsonValue);
    const result = validator.validate(MessageDraftSchema, draft);
    if (result.kind !== 'invalid') return draft;
    return result.violations
      .map((each) => `${pathToString(each.field) || each.ruleId.split('.', 1)[0]} ${each.message}`)
      .join('; ');
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

function readJournal(file: string): Journal | undefined {
  if (!existsSync(file)) return undefined;
  const { run, lines } = JSON.parse(readFileSync(file, 'utf8')) as Partial<Journal>;
  if (typeof run !== 'string' || typeof lines !== 'number')
    throw new UsageError(`${file} is no journal of send: remove it to begin anew`);
  return { run, lines };
}

/** The bar on a terminal's stderr, and the summary on stdout: as JSON for pipes. */
function progressOf(total: number, json: boolean) {
  const start = performance.now();
  const isTerminal = process.stderr.isTTY === true && !json;
  const rateOf = ({ sent, duplicates, refused }: Tally) =>
    Math.round((sent + duplicates + refused) / ((performance.now() - start) / 1000));
  return {
    show(bytes: number, tally: Tally) {
      if (!isTerminal) return;
      const share = total === 0 ? 1 : Math.min(1, bytes / total);
      const left = share === 0 ? 0 : ((performance.now() - start) / share - (performance.now() - start)) / 1000;
      const filled = Math.round(share * 30);
      process.stderr.write(
        `\r[${'#'.repeat(filled)}${'.'.repeat(30 - filled)}] ${Math.round(share * 100)} %  ${rateOf(tally)} messages/s  ${Math.ceil(left)} s left  ${tally.refused} refused `,
      );
    },
    end(tally: Tally) {
      if (isTerminal) process.stderr.write('\n');
      const summary = { ...tally, seconds: Math.round((performance.now() - start) / 100) / 10 };
      if (json) console.log(JSON.stringify(summary));
      else
        console.log(
          `${tally.sent} sent, ${tally.duplicates} were there already, ${tally.refused} refused, in ${summary.seconds} s`,
        );
    },
  };
}
