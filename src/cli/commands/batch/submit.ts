import { createHash, randomUUID } from 'node:crypto';
import { basename } from 'node:path';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { BatchPriority } from '../../../../gen/sendbatch/v1/batch_service_pb.ts';
import type { MessageDraft } from '../../../../gen/sendbatch/v1/message_pb.ts';
import { FileFault } from '../../../message-files/file-error.ts';
import { connectTo } from '../../connect.ts';
import { createDrafts } from '../../input/drafts.ts';
import { openReading, type Reading, type ReadingOptions, readingOf } from '../../input/file-options.ts';
import { createReceivers } from '../../input/repeated-receivers.ts';
import { reportedTemplates } from '../../input/report-templates.ts';
import type { Entry } from '../../input/source.ts';
import { note } from '../../output/output.ts';
import { CommandError } from '../../usage.ts';
import { printBatch } from './print.ts';
import { sendAtOf } from './send-at.ts';
import { watchBatch } from './watch.ts';

export interface SubmitCommandOptions extends ReadingOptions {
  readonly name?: string;
  readonly requestId?: string;
  readonly sendAt?: string;
  readonly timeZone?: string;
  readonly again?: boolean;
  readonly priority: keyof typeof priorities;
  readonly watch?: boolean;
}

/** Limit of the service for a batch's name. */
const nameBytes = 128;
export const priorities = { low: BatchPriority.LOW, normal: BatchPriority.NORMAL, high: BatchPriority.HIGH } as const;
export async function submitFile(file: string, options: SubmitCommandOptions): Promise<void> {
  const sendAt = await sendAtOf(options);
  const connection = connectTo(options);
  const reading = await readingOf(file, options, { connection, takesSendAt: true });
  const given = { name: options.name ?? nameOf(file), priority: priorities[options.priority] };
  const { messages, lines, templates, digest } = await readAll(file, reading, options.json === true);
  if (messages.length > maxMessages) throw new CommandError(tooMany(file, messages.length));
  const requestId = options.requestId ?? requestIdOf([digest, reading, sendAt], options.again === true);
  const { batch, duplicate } = await connection.client.submit(messages, {
    ...given,
    lines,
    templates: [...templates],
    requestId,
    ...(sendAt === undefined ? {} : { sendAt: timestampFromMs(sendAt) }),
  });
  const before =
    options.requestId === undefined
      ? 'the same file with the same options: --again submits it again'
      : 'with the same --request-id';
  if (!options.watch) {
    if (duplicate) note(`${batch.batchId} was already submitted, ${before}`);
    return await printBatch(batch, options);
  }
  note(
    `${batch.batchId} ${duplicate ? `was already submitted (${before})` : 'is submitted'}, with ${batch.messageCount} messages`,
  );
  process.exitCode = await watchBatch(connection, batch.batchId, options);
}

/** Limit of the service for messages per batch. */
const maxMessages = 100_000;

function tooMany(file: string, count: number): string {
  return `${file} has ${count} messages, and a batch has at most ${maxMessages}: split the file (split -l ${maxMessages}), or use send`;
}

/** Reads all messages of a file with their lines; throws if any line is invalid. */
async function readAll(file: string, reading: Reading, isQuiet: boolean) {
  const hash = createHash('sha256');
  const onNote = (text: string) => {
    if (!isQuiet) note(text);
  };
  const opened = openReading(file, reading, { onNote, onBytes: (chunk) => hash.update(chunk) });
  const draftOf = createDrafts(reading.mapping);
  const receivers = createReceivers();
  const messages: MessageDraft[] = [];
  const lines: number[] = [];
  const templates = [...reading.templates];
  const faults: string[] = [];
  let [invalid, dropped] = [0, 0];
  for await (const entry of withoutFault(opened.source.entries)) {
    const draft = draftOf(entry, opened.columns());
    for (const each of reportedTemplates(entry))
      if (!templates.some(({ name }) => name === each.name)) templates.push(each);
    if (typeof draft === 'string') {
      invalid++;
      if (faults.length < shownFaults) faults.push(`line ${entry.line}: ${draft}`);
    } else if (opened.repeats(entry)) dropped++;
    else {
      if ('row' in entry.content) receivers.add(entry.line, draft);
      messages.push(draft);
      lines.push(entry.line);
    }
  }
  for (const fault of faults) note(fault);
  if (invalid > 0) throw new CommandError(`${invalid} lines of ${file} are invalid; nothing was submitted`);
  if (dropped > 0) onNote(`${dropped} rows were dropped by --unique`);
  const repeated = receivers.words();
  if (repeated !== undefined && reading.unique === undefined) onNote(repeated);
  return { messages, lines, templates, digest: hash.digest('hex') };
}

/** A file that cannot be read to its end is not submitted. */
async function* withoutFault(entries: AsyncIterable<Entry>): AsyncGenerator<Entry> {
  try {
    yield* entries;
  } catch (error) {
    if (!(error instanceof FileFault)) throw error;
    throw new CommandError(`${error.message}; nothing was submitted`, { cause: error });
  }
}

/** At most this many invalid lines are printed. */
const shownFaults = 20;

/**
 * The same key for the same content and options, whatever the file's name: a second submit finds
 * the first batch.
 */
function requestIdOf(content: unknown, isNew: boolean): string {
  if (isNew) return `file-${randomUUID()}`;
  return `file-${createHash('sha256').update(JSON.stringify(content)).digest('hex').slice(0, 40)}`;
}

/** The base name of the file, cut to the length of a batch name. */
function nameOf(file: string): string {
  if (file === '-') return '';
  const bytes = Buffer.from(basename(file)).subarray(0, nameBytes);
  // A character cut in the middle is left out.
  return bytes.toString().replace(/\uFFFD$/, '');
}
