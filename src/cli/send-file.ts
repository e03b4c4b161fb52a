import { randomUUID } from 'node:crypto';
import { existsSync, rmSync, statSync } from 'node:fs';
import { ConnectError } from '@connectrpc/connect';
import type { MessageDraft } from '../../gen/sendbatch/v1/message_pb.ts';
import { type Draft, type RequestTemplate, type Result, reasonOf, type Sendbatch } from '../client/index.ts';
import { assertColumns, createDrafts, type Mapping } from './draft.ts';
import { onInterrupt } from './interrupt.ts';
import { changeOf, inputOf, readStanding, type Standing, type Tally, writeStanding } from './journal.ts';
import { lock } from './lock.ts';
import { note } from './output.ts';
import { createProgress } from './progress.ts';
import { createReport, type Report } from './report.ts';
import { openSource, type Shape } from './source.ts';
import { CommandError, exit } from './usage.ts';
import { createWaiting } from './waiting.ts';

/** Entries that are sent before the journal is written: what a killed run sends again at most, as duplicates. */
const chunkEntries = 5000;
/** Bytes of text in a chunk at most: what the run holds in memory, a few times over. */
const chunkBytes = 16 * 1024 * 1024;

/** What to send, and how. */
export interface Wish {
  /** A path, or `-`. */
  readonly file: string;
  readonly shape: Shape;
  readonly delimiter: string;
  readonly mapping: Mapping;
  readonly templates: readonly RequestTemplate[];
  readonly concurrency: number;
  /** Every check, nothing stored, and no journal. */
  readonly dryRun: boolean;
  readonly journal: string;
  readonly report: string;
  /** What to do when the file is another than the journal's. */
  readonly onChange: 'refuse' | 'resume' | 'restart';
  readonly quiet: boolean;
}

/** What became of it. */
export interface Outcome extends Tally {
  readonly interrupted: boolean;
  readonly seconds: number;
  /** Whether this run went on where another one was stopped. */
  readonly resumed: boolean;
}

/** Sends a file, from where an earlier run was stopped; however often that happens, each entry is stored once. */
export async function sendFile(client: Sendbatch, wish: Wish): Promise<Outcome> {
  const keepsJournal = wish.file !== '-' && !wish.dryRun;
  const free = keepsJournal ? lock(`${wish.journal}.lock`) : () => {};
  try {
    return await run(client, wish, keepsJournal);
  } catch (error) {
    if (keepsJournal && !(error instanceof CommandError) && existsSync(wish.journal))
      note(`stopped: the same command goes on (${wish.journal} says where)`);
    throw error;
  } finally {
    free();
  }
}

/** An entry that waits for its outcome. */
interface Waiting {
  readonly line: number;
  readonly text: string;
  /** A text is what is wrong with it. */
  readonly draft: Draft | string;
}

async function run(client: Sendbatch, wish: Wish, keepsJournal: boolean): Promise<Outcome> {
  const began = performance.now();
  const before = keepsJournal ? beforeOf(wish) : undefined;
  const runId = before?.run ?? randomUUID();
  const done = before?.line ?? 0;
  const tally: Tally = { sent: 0, duplicates: 0, refused: 0, ...before?.tally };
  const input = keepsJournal ? inputOf(wish.file, mappingText(wish)) : undefined;
  const report = createReport(wish.report, before?.reportBytes ?? 0);
  // The report first: what the journal counts as done is in it.
  const keep = (line: number) => {
    report.flush();
    if (input !== undefined)
      writeStanding(wish.journal, { run: runId, line, tally, reportBytes: report.bytes(), input } satisfies Standing);
  };
  const source = openSource(wish.file, wish.shape, wish.delimiter);
  const draftOf = createDrafts(wish.mapping);
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
    const good = chunk.filter((each): each is Waiting & { draft: Draft } => typeof each.draft !== 'string');
    const [from, to] = [progress.done(), source.bytesRead()];
    const results = await client.send(
      good.map((each) => each.draft),
      {
        concurrency: wish.concurrency,
        templates: wish.templates,
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
  try {
    for await (const entry of source.entries) {
      if (interruption.came()) {
        stopped = true;
        break;
      }
      if (handled === 0 && chunk.length === 0 && 'row' in entry.content) assertColumns(entry.content.row, wish.mapping);
      if (entry.line <= done) continue;
      if (handled === 0 && chunk.length === 0) {
        // Before the first one goes: a run that ends early has to go on under the same keys.
        if (before === undefined) keep(0);
        progress.begin(before === undefined ? 0 : source.bytesRead());
      }
      const { line, text } = entry;
      chunk.push({ line, text, draft: keyed(draftOf(entry), `${runId}:${line}`) });
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
  if (whole && keepsJournal) rmSync(wish.journal, { force: true });
  const seconds = Math.round((performance.now() - began) / 100) / 10;
  return { ...tally, interrupted, seconds, resumed: before !== undefined };
}

/** Under the entry's own key, or else under one that the next run gives it again. */
function keyed(draft: MessageDraft | string, key: string): Draft | string {
  return typeof draft === 'string' || draft.clientMsgNo !== '' ? draft : { ...draft, clientMsgNo: key };
}

/** Counts what became of each entry of a chunk, and reports what was refused; there is a result for each that is no fault. */
function settle(chunk: readonly Waiting[], results: readonly Result[], tally: Tally, report: Report): void {
  let nth = 0;
  for (const { line, text, draft } of chunk) {
    const result = typeof draft === 'string' ? undefined : results[nth++];
    if (typeof draft === 'string') report.add(line, 'INVALID_LINE', draft, text);
    else if (result?.error !== undefined)
      report.add(line, reasonOf(result.error) ?? 'unknown', result.error.message, text);
    if (typeof draft === 'string' || result?.error !== undefined) tally.refused++;
    else if (result?.duplicate) tally.duplicates++;
    else tally.sent++;
  }
}

/** Where an earlier run on this file stands; undefined when there is none, or it is to be forgotten. */
function beforeOf(wish: Wish): Standing | undefined {
  if (wish.onChange === 'restart') {
    rmSync(wish.journal, { force: true });
    return undefined;
  }
  const before = readStanding(wish.journal);
  if (before === undefined || wish.onChange === 'resume') return before;
  const change = changeOf(before.input, inputOf(wish.file, mappingText(wish)));
  if (change === undefined) return before;
  throw new CommandError(
    `${wish.file} is not what ${wish.journal} is about: ${change}. Bring that back; or --resume goes on at line ${before.line + 1} all the same; or --restart sends all of it, as new messages`,
  );
}

function mappingText({ shape, delimiter, mapping, templates }: Wish): string {
  return JSON.stringify({ shape, delimiter, mapping, templates });
}

/** The exit code of an outcome. */
export function exitOf({ interrupted, refused }: Outcome): number {
  if (interrupted) return exit.interrupted;
  return refused > 0 ? exit.refused : exit.done;
}
