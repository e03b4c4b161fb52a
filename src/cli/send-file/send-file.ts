/**
 * Sends a file of messages. A run that was stopped, killed or lost its service is resumed by the
 * next one, and each entry is stored once.
 *
 * Entry point: `sendFile`.
 *
 * Invariants:
 *  1. The journal is written after each chunk and counts only entries with a result, so a killed
 *     run repeats at most one chunk. Keys of messages derive from the run and the line: what is
 *     repeated is a duplicate.
 *  2. The report is on disk before the journal counts its entries.
 *  3. One run per journal at a time, by a lock file.
 */
import { createHash, randomUUID } from 'node:crypto';
import { statSync } from 'node:fs';
import { type JsonObject, toJson } from '@bufbuild/protobuf';
import { ConnectError } from '@connectrpc/connect';
import { type MessageDraft, MessageDraftSchema } from '../../../gen/sendbatch/v1/message_pb.ts';
import { type RequestTemplate, type Result, reasonOf, type Sendbatch } from '../../client/index.ts';
import { FileError, FileFault } from '../../message-files/file-error.ts';
import type { Columns } from '../../message-files/mapping.ts';
import { createDrafts } from '../input/drafts.ts';
import { type Opened, openReading } from '../input/file-options.ts';
import { createReceivers } from '../input/repeated-receivers.ts';
import { reportedTemplates } from '../input/report-templates.ts';
import type { Entry } from '../input/source.ts';
import { type Interruption, onInterrupt } from '../interrupt.ts';
import { createOutageNotice } from '../output/outage-notice.ts';
import { note } from '../output/output.ts';
import { createProgress, type Progress } from '../output/progress.ts';
import { CommandError, exit } from '../usage.ts';
import { type Checkpoint, fingerprintOf, type InputFingerprint, readCheckpoint, writeCheckpoint } from './journal.ts';
import { lock } from './lock.ts';
import { mappingJson, type Outcome, type SendCounts, type SendPlan } from './plan.ts';
import { createReport, type Report } from './report.ts';
import { findCheckpoint } from './resume.ts';

/** Entries per chunk: a killed run sends at most this many again, as duplicates. */
const chunkEntries = 5000;
/** Bound of a chunk's text; the run needs a few times as much memory. */
const chunkBytes = 16 * 1024 * 1024;

/** Sends a file, from the checkpoint of an earlier run if there is one. */
export async function sendFile(client: Sendbatch, plan: SendPlan): Promise<Outcome> {
  const keepsJournal = plan.file !== '-' && !plan.dryRun;
  const unlock = keepsJournal ? lock(`${plan.journal}.lock`) : () => {};
  try {
    return await new FileRun(client, plan, keepsJournal ? await findCheckpoint(plan) : undefined, keepsJournal).run();
  } catch (error) {
    if (keepsJournal && !(error instanceof CommandError || error instanceof FileError) && isUnfinished(plan.journal))
      note(`stopped: run the same command again to resume (progress is in ${plan.journal})`);
    throw error;
  } finally {
    unlock();
  }
}

function isUnfinished(journal: string): boolean {
  const checkpoint = readCheckpoint(journal);
  return checkpoint !== undefined && checkpoint.finished === undefined;
}

/** The exit code of an outcome. */
export function exitOf({ interrupted, refused, fault }: Outcome): number {
  if (fault !== undefined) return exit.failed;
  if (interrupted) return exit.interrupted;
  return refused > 0 ? exit.refused : exit.done;
}

/** An entry without a result yet. */
interface PendingEntry {
  readonly line: number;
  readonly text: string;
  /** A string says why the entry is invalid. */
  readonly draft: MessageDraft | string;
  readonly recipient: string | undefined;
}

/** One run over a file. */
class FileRun {
  readonly #began = performance.now();
  readonly #client: Sendbatch;
  readonly #plan: SendPlan;
  readonly #checkpoint: Checkpoint | undefined;
  readonly #runId: string;
  readonly #counts: SendCounts;
  readonly #fingerprint: InputFingerprint | undefined;
  readonly #report: Report;
  readonly #digest = createHash('sha256');
  readonly #opened: Opened;
  readonly #draftOf: ReturnType<typeof createDrafts>;
  readonly #receivers = createReceivers();
  readonly #templates: RequestTemplate[];
  readonly #progress: Progress;
  readonly #interruption: Interruption;
  readonly #outage = createOutageNotice();
  /**
   * Aborts calls of an unreachable service on an interruption; calls that are being answered
   * finish.
   */
  readonly #giveUp = new AbortController();
  #isUnreachable = false;
  #chunk: PendingEntry[] = [];
  #bytes = 0;
  #handled = 0;
  #begun = false;
  #lastLine: number;

  constructor(client: Sendbatch, plan: SendPlan, checkpoint: Checkpoint | undefined, keepsJournal: boolean) {
    this.#client = client;
    this.#plan = plan;
    this.#checkpoint = checkpoint;
    this.#runId = checkpoint?.run ?? randomUUID();
    this.#lastLine = checkpoint?.line ?? 0;
    this.#counts = { sent: 0, duplicates: 0, refused: 0, dropped: 0, ...checkpoint?.tally };
    this.#fingerprint = keepsJournal ? fingerprintOf(plan.file, mappingJson(plan)) : undefined;
    this.#report = createReport(plan.report, checkpoint?.reportBytes ?? 0, plan.templates as readonly JsonObject[]);
    this.#opened = openReading(plan.file, plan, {
      onNote: (text) => this.#note(text),
      onBytes: (chunk) => this.#digest.update(chunk),
    });
    this.#draftOf = createDrafts(plan.mapping);
    this.#templates = [...plan.templates];
    this.#progress = createProgress({
      quiet: plan.quiet,
      total: plan.file === '-' ? undefined : statSync(plan.file).size,
      noun: plan.dryRun ? 'checked' : 'messages',
      fault: 'refused',
    });
    this.#interruption = onInterrupt(() => this.#interrupted());
  }

  async run(): Promise<Outcome> {
    const { source } = this.#opened;
    let fault: FileFault | undefined;
    let isComplete = false;
    try {
      const readAll = await this.#readAll((error) => (fault = error));
      // An interruption during the last calls has interrupted nothing; but it ends standard input,
      // whose rest is unknown.
      isComplete = this.#chunk.length === 0 && readAll && (this.#plan.file !== '-' || !this.#interruption.came());
    } catch (error) {
      if (!this.#giveUp.signal.aborted) throw error;
    } finally {
      this.#interruption.leave();
      source.close();
      this.#progress.end();
      this.#report.close();
    }
    if (isComplete && fault === undefined) this.#finish();
    const repeated = this.#receivers.words();
    if (repeated !== undefined && this.#plan.unique === undefined) this.#note(repeated);
    return {
      ...this.#counts,
      interrupted: !isComplete,
      seconds: Math.round((performance.now() - this.#began) / 100) / 10,
      // For a file that has grown since it was sent completely, only new lines are counted.
      resumed: this.#checkpoint !== undefined && Object.values(this.#checkpoint.tally).some((count) => count > 0),
      fault,
    };
  }

  /**
   * Reads and sends the entries; false if an interruption stopped it before the end of the file.
   */
  async #readAll(onFault: (fault: FileFault) => void): Promise<boolean> {
    for await (const entry of untilFault(this.#opened.source.entries, onFault)) {
      if (this.#interruption.came()) return false;
      if (!this.#take(entry)) continue;
      if (this.#chunk.length === chunkEntries || this.#bytes >= chunkBytes) await this.#flush();
    }
    // Entries read after the interruption were not sent, and the journal must not count them.
    if (!this.#interruption.came()) await this.#flush();
    return true;
  }

  /** Adds an entry to the chunk; false if it was sent by an earlier run, or is left out. */
  #take(entry: Entry): boolean {
    const { line, text } = entry;
    const columns = this.#opened.columns();
    const draft = this.#draftOf(entry, columns);
    for (const each of reportedTemplates(entry))
      if (!this.#templates.some(({ name }) => name === each.name)) this.#templates.push(each);
    const repeats = typeof draft !== 'string' && this.#opened.repeats(entry);
    if (typeof draft !== 'string' && !repeats && 'row' in entry.content) this.#receivers.add(line, draft);
    if (line <= (this.#checkpoint?.line ?? 0)) return false;
    this.#lastLine = line;
    this.#begin();
    if (repeats) {
      this.#counts.dropped++;
      return false;
    }
    this.#chunk.push({
      line,
      text,
      draft: withKey(draft, `${this.#runId}:${line}`),
      recipient: recipientOf(draft, entry, columns),
    });
    this.#bytes += text.length;
    return true;
  }

  /**
   * Writes the journal before the first message is sent: a run that ends early must resume with the
   * same keys.
   */
  #begin(): void {
    if (this.#begun) return;
    if (this.#checkpoint === undefined) this.#save(0);
    this.#progress.begin(this.#checkpoint === undefined ? 0 : this.#opened.source.bytesRead());
    this.#begun = true;
  }

  async #flush(): Promise<void> {
    const last = this.#chunk.at(-1);
    if (last === undefined) return;
    const { dryRun, concurrency } = this.#plan;
    const valid = this.#chunk.map(({ draft }) => draft).filter((draft) => typeof draft !== 'string');
    const [from, to] = [this.#progress.done(), this.#opened.source.bytesRead()];
    const results = await this.#client.send(valid, {
      concurrency,
      templates: this.#templates,
      validateOnly: dryRun,
      signal: this.#giveUp.signal,
      onRetry: (error) => this.#unreachable(error),
      onProgress: (done, of) => {
        this.#isUnreachable = false;
        this.#outage.answered();
        this.#progress.show(from + ((to - from) * done) / of, this.#handled + done, this.#counts.refused);
      },
    });
    recordResults(this.#chunk, results, this.#counts, this.#report);
    this.#handled += this.#chunk.length;
    this.#chunk = [];
    this.#bytes = 0;
    this.#save(last.line);
    this.#progress.show(to, this.#handled, this.#counts.refused);
  }

  /** The report first: it contains what the journal counts. */
  #save(line: number, more: Partial<Checkpoint> = {}): void {
    this.#report.flush();
    if (this.#fingerprint === undefined) return;
    writeCheckpoint(this.#plan.journal, {
      run: this.#runId,
      line,
      tally: this.#counts,
      reportBytes: this.#report.bytes(),
      input: this.#fingerprint,
      ...more,
    });
  }

  #finish(): void {
    if (this.#fingerprint === undefined || !(this.#begun || this.#checkpoint !== undefined)) return;
    const finished = { at: new Date().toISOString(), digest: this.#digest.digest('hex') };
    this.#save(this.#lastLine, {
      finished,
      input: { ...this.#fingerprint, size: this.#opened.source.bytesRead() },
    });
  }

  #unreachable(error: unknown): void {
    this.#isUnreachable = true;
    if (this.#interruption.came()) this.#giveUp.abort();
    else if (this.#progress.isShown())
      this.#progress.waits(`service unreachable, retrying: ${ConnectError.from(error).rawMessage}`);
    else this.#outage.failed(error);
  }

  #interrupted(): void {
    this.#progress.end();
    note('stopping: calls in flight are finished; a second Ctrl-C exits immediately');
    if (this.#plan.file === '-') this.#opened.source.close();
    if (this.#isUnreachable) this.#giveUp.abort();
  }

  #note(text: string): void {
    if (!this.#plan.quiet) note(text);
  }
}

/** Ends the entries at a fault of the file and reports it: the entries before it are sent. */
async function* untilFault(entries: AsyncIterable<Entry>, onFault: (fault: FileFault) => void): AsyncGenerator<Entry> {
  try {
    yield* entries;
  } catch (error) {
    if (!(error instanceof FileFault)) throw error;
    onFault(error);
  }
}

/** The channel id for the report; for an invalid row the cell of its column. */
function recipientOf(draft: MessageDraft | string, { content }: Entry, columns: Columns): string | undefined {
  if (typeof draft !== 'string') return draft.channelId;
  return 'row' in content && columns.channel_id !== undefined ? content.row[columns.channel_id] : undefined;
}

/** The entry's own key, or else one that a resumed run gives it again. */
function withKey(draft: MessageDraft | string, key: string): MessageDraft | string {
  return typeof draft === 'string' || draft.clientMsgNo !== '' ? draft : { ...draft, clientMsgNo: key };
}

/**
 * Counts the entries of a chunk and reports the refused ones. There is one result per valid entry.
 */
function recordResults(
  chunk: readonly PendingEntry[],
  results: readonly Result[],
  counts: SendCounts,
  report: Report,
): void {
  let next = 0;
  for (const { line, text, draft, recipient } of chunk) {
    const result = typeof draft === 'string' ? undefined : results[next++];
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
    if (typeof draft === 'string' || result?.error !== undefined) counts.refused++;
    else if (result?.duplicate) counts.duplicates++;
    else counts.sent++;
  }
}
