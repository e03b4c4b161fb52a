import { createHash, randomUUID } from 'node:crypto';
import { rmSync, statSync } from 'node:fs';
import { type JsonObject, toJson } from '@bufbuild/protobuf';
import { ConnectError } from '@connectrpc/connect';
import { type MessageDraft, MessageDraftSchema } from '../../../gen/sendbatch/v1/message_pb.ts';
import { type Result, reasonOf, type Sendbatch } from '../../client/index.ts';
import type { Columns } from '../input/columns.ts';
import { createDrafts } from '../input/drafts.ts';
import { FileFault } from '../input/file-fault.ts';
import { openReading, type Reading } from '../input/file-options.ts';
import { createReceivers } from '../input/repeated-receivers.ts';
import { reportedTemplates } from '../input/report-templates.ts';
import type { Entry } from '../input/source.ts';
import { onInterrupt } from '../interrupt.ts';
import { createWaiting } from '../output/outage-notice.ts';
import { note } from '../output/output.ts';
import { createProgress } from '../output/progress.ts';
import { CommandError, exit } from '../usage.ts';
import { changeOf, inputOf, likenessOf, readStanding, type Standing, type Tally, writeStanding } from './journal.ts';
import { lock } from './lock.ts';
import { createReport, type Report } from './report.ts';

/** Entries that are sent before the journal is written: what a killed run sends again at most, as duplicates. */
const chunkEntries = 5000;
/** Bytes of text in a chunk at most: what the run holds in memory, a few times over. */
const chunkBytes = 16 * 1024 * 1024;

/** What to send, and how. */
export interface Wish extends Reading {
  /** A path, or `-`. */
  readonly file: string;
  readonly concurrency: number;
  /** Every check, nothing stored, and no journal. */
  readonly dryRun: boolean;
  readonly journal: string;
  readonly report: string;
  /** What to do when the file is another than the journal's. */
  readonly onChange: 'refuse' | 'resume' | 'restart';
  /** Whether a file that was sent whole is sent once more. */
  readonly again: boolean;
  readonly quiet: boolean;
}

/** What became of it. */
export interface Outcome extends Tally {
  readonly interrupted: boolean;
  readonly seconds: number;
  /** Whether this run went on where another one was stopped. */
  readonly resumed: boolean;
  /** What ended the file before its end. */
  readonly fault: FileFault | undefined;
}

/** Sends a file, from where an earlier run was stopped; however often that happens, each entry is stored once. */
export async function sendFile(client: Sendbatch, wish: Wish): Promise<Outcome> {
  const keepsJournal = wish.file !== '-' && !wish.dryRun;
  const free = keepsJournal ? lock(`${wish.journal}.lock`) : () => {};
  try {
    return await run(client, wish, keepsJournal);
  } catch (error) {
    if (keepsJournal && !(error instanceof CommandError) && isUnfinished(wish.journal))
      note(`stopped: the same command goes on (${wish.journal} says where)`);
    throw error;
  } finally {
    free();
  }
}

function isUnfinished(journal: string): boolean {
  const standing = readStanding(journal);
  return standing !== undefined && standing.finished === undefined;
}

/** An entry that waits for its outcome. */
interface Waiting {
  readonly line: number;
  readonly text: string;
  /** A text is what is wrong with it. */
  readonly draft: MessageDraft | string;
  readonly recipient: string | undefined;
}

async function run(client: Sendbatch, wish: Wish, keepsJournal: boolean): Promise<Outcome> {
  const began = performance.now();
  const before = keepsJournal ? await beforeOf(wish) : undefined;
  const runId = before?.run ?? randomUUID();
  const done = before?.line ?? 0;
  const tally: Tally = { sent: 0, duplicates: 0, refused: 0, dropped: 0, ...before?.tally };
  const input = keepsJournal ? inputOf(wish.file, mappingText(wish)) : undefined;
  const report = createReport(wish.report, before?.reportBytes ?? 0, wish.templates as readonly JsonObject[]);
  // The report first: what the journal counts as done is in it.
  const keep = (line: number, more: Partial<Standing> = {}) => {
    report.flush();
    if (input !== undefined)
      writeStanding(wish.journal, { run: runId, line, tally, reportBytes: report.bytes(), input, ...more });
  };
  const digest = createHash('sha256');
  const onNote = (text: string) => {
    if (!wish.quiet) note(text);
  };
  const opened = openReading(wish.file, wish, { onNote, onBytes: (chunk) => digest.update(chunk) });
  const { source } = opened;
  const draftOf = createDrafts(wish.mapping);
  const receivers = createReceivers();
  const templates = [...wish.templates];
  const progress = createProgress({
    quiet: wish.quiet,
    total: wish.file === '-' ? undefined : statSync(wish.file).size,
    noun: wish.dryRun ? 'checked' : 'messages',
    fault: 'refused',
  });
  const interruption = onInterrupt(() => {
    progress.end();
    note('stopping: the calls under way are finished; again ends at once');
    if (wish.file === '-') source.close();
    if (isAway) giveUp.abort();
  });
  const waiting = createWaiting();
  /** Calls of a service that is away are not finished by an interruption, they are given up. */
  const giveUp = new AbortController();
  let isAway = false;

  let chunk: Waiting[] = [];
  let bytes = 0;
  let handled = 0;
  let stopped = false;
  let whole = false;
  const flush = async () => {
    const last = chunk.at(-1);
    if (last === undefined) return;
    const good = chunk.filter((each): each is Waiting & { draft: MessageDraft } => typeof each.draft !== 'string');
    const [from, to] = [progress.done(), source.bytesRead()];
    const results = await client.send(
      good.map((each) => each.draft),
      {
        concurrency: wish.concurrency,
        templates,
        validateOnly: wish.dryRun,
        signal: giveUp.signal,
        onRetry(error) {
          isAway = true;
          if (interruption.came()) giveUp.abort();
          else if (progress.isShown())
            progress.waits(`waiting for the service: ${ConnectError.from(error).rawMessage}`);
          else waiting.failed(error);
        },
        onProgress(some, of) {
          isAway = false;
          waiting.answered();
          progress.show(from + ((to - from) * some) / of, handled + some, tally.refused);
        },
      },
    );
    settle(chunk, results, tally, report);
    handled += chunk.length;
    chunk = [];
    bytes = 0;
    keep(last.line);
    progress.show(to, handled, tally.refused);
  };
  let fault: FileFault | undefined;
  let begun = false;
  let lastLine = done;
  try {
    for await (const entry of endedBy(source.entries, (error) => (fault = error))) {
      if (interruption.came()) {
        stopped = true;
        break;
      }
      const { line, text } = entry;
      const draft = draftOf(entry, opened.columns());
      for (const each of reportedTemplates(entry))
        if (!templates.some(({ name }) => name === each.name)) templates.push(each);
      const repeats = typeof draft !== 'string' && opened.repeats(entry);
      if (typeof draft !== 'string' && !repeats && 'row' in entry.content) receivers.add(line, draft);
      if (line <= done) continue;
      lastLine = line;
      if (!begun) {
        // Before the first one goes: a run that ends early has to go on under the same keys.
        if (before === undefined) keep(0);
        progress.begin(before === undefined ? 0 : source.bytesRead());
        begun = true;
      }
      if (repeats) {
        tally.dropped++;
        continue;
      }
      chunk.push({
        line,
        text,
        draft: keyed(draft, `${runId}:${line}`),
        recipient: recipientOf(draft, entry, opened.columns()),
      });
      bytes += text.length;
      if (chunk.length === chunkEntries || bytes >= chunkBytes) await flush();
    }
    // What was read after the interruption has not been sent: the journal is of what was.
    if (!interruption.came()) await flush();
    // One that came while the last ones were sent has interrupted nothing; standard input ends by it, so nobody knows.
    whole = chunk.length === 0 && !stopped && (wish.file !== '-' || !interruption.came());
  } catch (error) {
    if (!giveUp.signal.aborted) throw error;
  } finally {
    interruption.leave();
    source.close();
    progress.end();
    report.close();
  }
  const interrupted = !whole;
  if (whole && fault === undefined && input !== undefined && (begun || before !== undefined)) {
    const finished = { at: new Date().toISOString(), digest: digest.digest('hex') };
    keep(lastLine, { finished, input: { ...input, size: source.bytesRead() } });
  }
  const repeated = receivers.words();
  if (repeated !== undefined && wish.unique === undefined) onNote(repeated);
  const seconds = Math.round((performance.now() - began) / 100) / 10;
  // Of a file that was sent whole and has grown since, only what is new is counted.
  const resumed = before !== undefined && Object.values(before.tally).some((count) => count > 0);
  return { ...tally, interrupted, seconds, resumed, fault };
}

/** Ends the entries by a fault of the file, and says which: what came before it is sent. */
async function* endedBy(entries: AsyncIterable<Entry>, tell: (fault: FileFault) => void): AsyncGenerator<Entry> {
  try {
    yield* entries;
  } catch (error) {
    if (!(error instanceof FileFault)) throw error;
    tell(error);
  }
}

/** The channel's id, for people: of an entry that is no message what stands in its column. */
function recipientOf(draft: MessageDraft | string, { content }: Entry, columns: Columns): string | undefined {
  if (typeof draft !== 'string') return draft.channelId;
  return 'row' in content && columns.channel_id !== undefined ? content.row[columns.channel_id] : undefined;
}

/** Under the entry's own key, or else under one that the next run gives it again. */
function keyed(draft: MessageDraft | string, key: string): MessageDraft | string {
  return typeof draft === 'string' || draft.clientMsgNo !== '' ? draft : { ...draft, clientMsgNo: key };
}

/** Counts what became of each entry of a chunk, and reports what was refused; there is a result for each that is no fault. */
function settle(chunk: readonly Waiting[], results: readonly Result[], tally: Tally, report: Report): void {
  let nth = 0;
  for (const { line, text, draft, recipient } of chunk) {
    const result = typeof draft === 'string' ? undefined : results[nth++];
    if (typeof draft === 'string') report.add({ line, recipient, reason: 'INVALID_LINE', message: draft, text });
    else if (result?.error !== undefined)
      report.add({
        line,
        recipient,
        reason: reasonOf(result.error) ?? 'unknown',
        message: result.error.message,
        text,
        draft: toJson(MessageDraftSchema, draft, { useProtoFieldName: true }) as JsonObject,
      });
    if (typeof draft === 'string' || result?.error !== undefined) tally.refused++;
    else if (result?.duplicate) tally.duplicates++;
    else tally.sent++;
  }
}

/** Where an earlier run on this file stands; undefined when there is none, or it is to be forgotten. */
async function beforeOf(wish: Wish): Promise<Standing | undefined> {
  if (wish.onChange === 'restart') {
    rmSync(wish.journal, { force: true });
    return undefined;
  }
  const before = readStanding(wish.journal);
  if (before?.finished !== undefined) return await afterWhole(wish, before, before.finished.at);
  if (before === undefined || wish.onChange === 'resume') return before;
  const change = changeOf(before.input, inputOf(wish.file, mappingText(wish)));
  if (change === undefined) return before;
  throw new CommandError(
    `${wish.file} is not what ${wish.journal} is about: ${change}. Bring that back; or --resume goes on at line ${before.line + 1} all the same; or --restart sends all of it, as new messages`,
  );
}

/** What a run does after one that sent a file whole: the same file goes again only where that is wanted. */
async function afterWhole(wish: Wish, before: Standing, at: string): Promise<Standing | undefined> {
  const likeness = wish.again ? 'other' : await likenessOf(wish.file, before, mappingText(wish));
  if (likeness === 'other') return undefined;
  const { sent, duplicates, refused } = before.tally;
  const was = `${wish.file} was sent whole at ${at} (${sent} sent, ${duplicates} were there already, ${refused} refused; ${wish.journal} says so)`;
  if (likeness === 'same') throw new CommandError(`${was}: --again sends all of it once more, as new messages`);
  if (wish.onChange === 'resume') {
    const { finished: _, ...rest } = before;
    return { ...rest, tally: { sent: 0, duplicates: 0, refused: 0, dropped: 0 } };
  }
  throw new CommandError(
    `${was}, and has grown since: --resume sends what is behind line ${before.line}; --again sends all of it, as new messages`,
  );
}

function mappingText({ shape, delimiter, encoding, mapping, templates, unique }: Wish): string {
  return JSON.stringify({ shape, delimiter, encoding, mapping, templates, unique });
}

/** The exit code of an outcome. */
export function exitOf({ interrupted, refused, fault }: Outcome): number {
  if (fault !== undefined) return exit.failed;
  if (interrupted) return exit.interrupted;
  return refused > 0 ? exit.refused : exit.done;
}
