/**
 * Compose without its page: reads a file, makes messages of its rows, checks and submits them. It
 * runs in a Web Worker, so that 100,000 rows do not freeze the page; the page asks for the rows
 * that it shows.
 *
 * Entry point: `ComposeEngine`, called through worker.ts and client.ts.
 *
 * Invariants:
 *  1. A file that cannot be read to its end is not submitted, and neither is a row with a problem.
 *  2. What is submitted is what `findAudience` counted for the same plan.
 *  3. The credential stays in memory; only calls to the service contain it.
 */
import { Code, ConnectError, createClient, type Interceptor, type Transport } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-web';
import { BatchService } from '../../../gen/client/sendbatch/v1/batch_service_pb.ts';
import type { ChannelType, MessageDraft } from '../../../gen/client/sendbatch/v1/message_pb.ts';
import { MessageService } from '../../../gen/client/sendbatch/v1/message_service_pb.ts';
import { TemplateFormat } from '../../../gen/client/sendbatch/v1/template_service_pb.ts';
import { randomKey } from '../../../src/client/random-key.ts';
import { reasonOf } from '../../../src/client/retry.ts';
import { type DetectedEncoding, detectEncoding, fileKind } from '../files/encoding.ts';
import { guessColumns, looksLikeBase64, type Target } from '../files/guess.ts';
import { isJsonLines, readJsonLines } from '../files/json-lines.ts';
import { FileProblem, type Problem } from '../files/problem.ts';
import type { RowFault, Table } from '../files/table.ts';
import { detectDelimiter, detectHeader, readText, sampleOf } from '../files/text-table.ts';
import { type OpenSheet, openWorkbook } from '../files/workbook.ts';
import { type Audience, findAudience, type ProblemGroup, ProblemGroups, pause, rowState } from './audience.ts';
import { checkMessages } from './check.ts';
import { createMessageMaker, isProblem, rowAsObject } from './messages.ts';
import { ownTemplate, type Plan } from './plan.ts';
import { prepareBatch, type SubmitChoice, uploadBatch } from './upload.ts';
import { ConnectionLost, createUploadTransport, type SendBody } from './upload-transport.ts';

/** Where and as whom the engine calls the service. */
export interface Connection {
  readonly baseUrl: string;
  readonly credential: string | undefined;
}

/** How to read a file; what is not given is detected. */
export interface ReadChoice {
  readonly encoding?: string | undefined;
  readonly delimiter?: string | undefined;
  readonly hasHeader?: boolean | undefined;
  readonly sheet?: string | undefined;
  /** Whether hidden rows of a sheet are read; unless chosen they are not. */
  readonly withHidden?: boolean | undefined;
}

/** What a file is, and how it was read. */
export interface FileInfo {
  readonly kind: 'table' | 'jsonLines' | 'workbook';
  /** Text files. */
  readonly encoding: DetectedEncoding | undefined;
  /** Tables. */
  readonly delimiter: string | undefined;
  readonly hasHeader: boolean;
  /** Workbooks. */
  readonly sheet: string | undefined;
  readonly sheets: readonly string[];
  readonly withHidden: boolean;
  readonly hiddenRows: number;
  readonly mergedRanges: number;
  readonly columns: readonly string[];
  readonly rowCount: number;
  readonly faultCount: number;
  /** The first rows that cannot be read. */
  readonly faults: readonly RowFault[];
  readonly end: RowFault | undefined;
  readonly isCut: boolean;
  readonly blankRows: number;
  /** Whether each line is a complete message, as the command `send` takes it. */
  readonly holdsMessages: boolean;
  readonly guess: Partial<Record<Target, string>>;
  /** Whether the guessed payload column is base64. */
  readonly payloadIsBase64: boolean;
}

/** A row as the page shows it. */
export interface ShownRow {
  readonly row: number;
  readonly line: number;
  readonly cells: readonly string[];
  readonly state: number;
}

/** The message of a row. */
export interface Preview {
  readonly row: number;
  readonly line: number;
  readonly channelType: number;
  readonly channelId: string;
  readonly fromUid: string;
  /** Undefined if the template's text is not known. */
  readonly payload: Uint8Array | undefined;
  readonly problem: Problem | undefined;
  /** Variables of the template whose cells are empty. */
  readonly emptyVariables: readonly string[];
}

/** What the service would do now with the messages of an audience. */
export interface CheckReport {
  readonly checked: number;
  /** Messages that make a batch invalid; they are left out. */
  readonly malformed: readonly ProblemGroup[];
  readonly malformedCount: number;
  /** Messages that would be refused now. */
  readonly refused: readonly ProblemGroup[];
  readonly refusedCount: number;
}

/**
 * preparing → prepared → uploading → storing. After a lost connection: waiting or offline, then
 * uploading from the start.
 */
export type UploadState =
  | { readonly step: 'preparing' }
  | { readonly step: 'prepared'; readonly requestId: string; readonly messageCount: number }
  | ({ readonly step: 'uploading' } & Transferred)
  | ({ readonly step: 'storing' } & Transferred)
  | ({ readonly step: 'waiting'; readonly why: 'connection' | 'service' } & Transferred)
  | ({ readonly step: 'offline' } & Transferred);

/** How far an attempt has come. */
export interface Transferred {
  /** From 1. */
  readonly attempt: number;
  readonly sentBytes: number;
  readonly totalBytes: number;
}

export interface Submitted {
  readonly batchId: string;
  readonly messageCount: number;
  readonly duplicate: boolean;
}

/** Where a test message goes. */
export interface TestTarget {
  readonly row: number;
  readonly channelType: ChannelType;
  readonly channelId: string;
}

/** What the engine needs of the browser. */
export interface Network {
  /** Sends bodies with progress: XMLHttpRequest in the worker. */
  createSendBody(onProgress: (sentBytes: number, totalBytes: number) => void): SendBody;
  isOnline(): boolean;
  /** Resolves once the computer has a network, or the signal aborts. */
  whenOnline(signal: AbortSignal): Promise<void>;
}

const shownFaults = 100;

export class ComposeEngine {
  readonly #network: Network;
  #file: Blob | undefined;
  #table: Table | undefined;
  /** The workbook that was read last: another header choice needs no reading. */
  #sheet: { readonly file: Blob; readonly open: OpenSheet } | undefined;
  #states = new Uint8Array(0);

  constructor(network: Network) {
    this.#network = network;
  }

  /** Reads a file. A choice replaces what would be detected. */
  async open(file: Blob, choice: ReadChoice, onProgress: (bytes: number) => void): Promise<FileInfo> {
    this.#table = undefined;
    const kind = await fileKind(file);
    const read =
      kind === 'workbook'
        ? await this.#readWorkbook(file, choice, onProgress)
        : await readTextFile(file, choice, onProgress);
    const { table } = read;
    this.#file = file;
    this.#table = table;
    this.#states = new Uint8Array(table.rows.length);
    const guess = guessColumns(table.columns);
    const payloadAt = guess.payload === undefined ? -1 : table.columns.indexOf(guess.payload);
    return {
      ...read.info,
      columns: table.columns,
      rowCount: table.rows.length,
      faultCount: table.faults.length,
      faults: table.faults.slice(0, shownFaults),
      end: table.end,
      isCut: table.isCut,
      blankRows: table.blankRows,
      holdsMessages: table.texts !== undefined,
      guess,
      payloadIsBase64:
        read.info.kind === 'jsonLines' &&
        payloadAt >= 0 &&
        looksLikeBase64(samplesOf(table, payloadAt), table.texts === undefined ? 1 : 0.5),
    };
  }

  async #readWorkbook(
    file: Blob,
    { sheet, hasHeader, withHidden = false }: ReadChoice,
    onProgress: (bytes: number) => void,
  ): Promise<ReadFile> {
    const last = this.#sheet;
    const isOpen = last?.file === file && (sheet === undefined || last.open.sheet === sheet);
    const open = isOpen ? last.open : await openWorkbook(file, sheet, onProgress);
    this.#sheet = { file, open };
    const header = hasHeader ?? open.looksLikeHeader(withHidden);
    const { sheets, hiddenRows, mergedRanges } = open;
    return {
      table: open.table({ hasHeader: header, withHidden }),
      info: {
        kind: 'workbook',
        encoding: undefined,
        delimiter: undefined,
        hasHeader: header,
        sheet: open.sheet,
        sheets,
        withHidden,
        hiddenRows,
        mergedRanges,
      },
    };
  }

  close(): void {
    this.#file = undefined;
    this.#table = undefined;
    this.#sheet = undefined;
    this.#states = new Uint8Array(0);
  }

  /** A window of rows. */
  rows(from: number, count: number): ShownRow[] {
    const table = this.#opened();
    return table.rows.slice(from, from + count).map((cells, index) => ({
      row: from + index,
      line: table.lines[from + index] ?? 0,
      cells,
      state: this.#states[from + index] ?? rowState.sent,
    }));
  }

  async audience(plan: Plan, signal: AbortSignal, onProgress: (rows: number) => void): Promise<Audience> {
    const table = this.#opened();
    const states = new Uint8Array(table.rows.length);
    const audience = await findAudience(table, plan, { states, signal, onProgress });
    this.#states = states;
    return audience;
  }

  /** The next row from `from` on that would be sent; any row if there is none. */
  nextRow(from: number, step: 1 | -1): number {
    const { length } = this.#opened().rows;
    for (let row = from; row >= 0 && row < length; row += step) if (this.#states[row] === rowState.sent) return row;
    return Math.min(Math.max(from, 0), length - 1);
  }

  preview(plan: Plan, row: number): Preview {
    const table = this.#opened();
    const maker = createMessageMaker(table, plan);
    const draft = maker.draft(row);
    const line = table.lines[row] ?? 0;
    const cells = rowAsObject(table, row);
    const emptyVariables = maker.variables.filter((name) => cells[name]?.trim() === '');
    if (isProblem(draft))
      return {
        row,
        line,
        channelType: 0,
        channelId: '',
        fromUid: '',
        payload: undefined,
        problem: draft,
        emptyVariables,
      };
    const rendered = maker.templateFault === undefined ? maker.render(draft) : templateProblem(maker.templateFault);
    return {
      row,
      line,
      channelType: draft.channelType,
      channelId: draft.channelId,
      fromUid: draft.fromUid,
      payload: rendered === undefined || isProblem(rendered) ? undefined : rendered.payload,
      problem: rendered !== undefined && isProblem(rendered) ? rendered : undefined,
      emptyVariables,
    };
  }

  /** Asks the service about each message of the last audience, without sending any. */
  async check(
    connection: Connection,
    plan: Plan,
    signal: AbortSignal,
    onProgress: (checked: number) => void,
  ): Promise<CheckReport> {
    const table = this.#opened();
    const states = this.#states;
    for (const [row, state] of states.entries()) if (state === rowState.refused) states[row] = rowState.sent;
    const malformed = new ProblemGroups();
    const refused = new ProblemGroups();
    let checked = 0;
    await checkMessages(createClient(MessageService, this.#transport(connection)), this.#messages(plan, false), {
      templates: templatesOf(plan),
      signal,
      onProblem: (row, problem, isMalformed) => {
        (isMalformed ? malformed : refused).add(table.lines[row] ?? 0, problem);
        states[row] = isMalformed ? rowState.invalid : rowState.refused;
      },
      onProgress(count) {
        checked = count;
        onProgress(count);
      },
    });
    return {
      checked,
      malformed: malformed.list(),
      malformedCount: malformed.count,
      refused: refused.list(),
      refusedCount: refused.count,
    };
  }

  /** Sends the message of one row to a channel of the user's choice, at once. */
  async sendTest(connection: Connection, plan: Plan, { row, channelType, channelId }: TestTarget): Promise<bigint> {
    const draft = createMessageMaker(this.#opened(), plan).draft(row);
    if (isProblem(draft)) throw new FileProblem(draft.code, draft.values);
    const message = {
      ...draft,
      channelType,
      channelId,
      sendAt: undefined,
      // The test is for its receiver, whoever else the message is for.
      subscribers: [],
      clientMsgNo: `test-${randomKey()}`,
    };
    const rpc = createClient(MessageService, this.#transport(connection));
    const { results } = await rpc.sendBatch({ messages: [message as MessageDraft], templates: templatesOf(plan) });
    const [result] = results;
    if (result?.error !== undefined)
      throw new FileProblem('refused', { reason: result.error.reason, text: result.error.message });
    return result?.messageSeq ?? 0n;
  }

  /** Uploads the messages of the last audience as a batch. */
  async submit(
    connection: Connection,
    plan: Plan,
    choice: SubmitChoice & { readonly withRefused: boolean },
    signal: AbortSignal,
    onState: (state: UploadState) => void,
  ): Promise<Submitted> {
    const table = this.#opened();
    if (table.end !== undefined) throw new FileProblem(table.end.problem.code, table.end.problem.values);
    onState({ step: 'preparing' });
    await pause();
    const templates = templatesOf(plan);
    const lines = (function* (messages: Iterable<{ row: number; draft: MessageDraft }>) {
      for (const { row, draft } of messages) yield { line: table.lines[row] ?? 0, draft };
    })(this.#messages(plan, choice.withRefused));
    const prepared = prepareBatch(lines, templates, choice);
    if (prepared.messageCount === 0) throw new FileProblem('noRows');
    onState({ step: 'prepared', requestId: prepared.requestId, messageCount: prepared.messageCount });
    let done: Transferred = { attempt: 1, sentBytes: 0, totalBytes: 0 };
    const transport = createUploadTransport({
      baseUrl: connection.baseUrl,
      interceptors: [withCredential(connection)],
      send: this.#network.createSendBody((sentBytes, totalBytes) => {
        done = { ...done, sentBytes, totalBytes };
        onState({ step: sentBytes < totalBytes ? 'uploading' : 'storing', ...done });
      }),
    });
    const { batch, duplicate } = await uploadBatch(createClient(BatchService, transport), prepared, {
      choice,
      templates,
      signal,
      onAttempt: (attempt) => {
        done = { ...done, attempt, sentBytes: 0 };
        if (attempt > 1) onState({ step: 'uploading', ...done });
      },
      onRetry: (error) =>
        onState({ step: 'waiting', why: isConnectionLost(error) ? 'connection' : 'service', ...done }),
      whenOnline: async () => {
        if (this.#network.isOnline()) return;
        onState({ step: 'offline', ...done });
        await this.#network.whenOnline(signal);
        signal.throwIfAborted();
      },
    });
    return { batchId: batch.batchId, messageCount: batch.messageCount, duplicate };
  }

  /** The messages that would be sent, of the last audience. */
  *#messages(plan: Plan, withRefused: boolean): Generator<{ readonly row: number; readonly draft: MessageDraft }> {
    const maker = createMessageMaker(this.#opened(), plan);
    for (const [row, state] of this.#states.entries()) {
      if (state !== rowState.sent && !(withRefused && state === rowState.refused)) continue;
      const draft = maker.draft(row);
      if (!isProblem(draft)) yield { row, draft };
    }
  }

  #transport(connection: Connection): Transport {
    return createConnectTransport({
      baseUrl: connection.baseUrl,
      useBinaryFormat: true,
      interceptors: [withCredential(connection)],
      defaultTimeoutMs: 60_000,
    });
  }

  #opened(): Table {
    if (this.#table === undefined || this.#file === undefined) throw new Error('no file is open');
    return this.#table;
  }
}

const noWorkbook = { sheet: undefined, sheets: [], withHidden: false, hiddenRows: 0, mergedRanges: 0 };

/** The first texts of a column, without objects of JSON. */
function samplesOf({ rows }: Table, column: number): string[] {
  return rows
    .slice(0, 100)
    .map((cells) => cells[column] ?? '')
    .filter((text) => !/^[[{]/.test(text));
}

interface ReadFile {
  readonly table: Table;
  readonly info: Pick<FileInfo, 'kind' | 'encoding' | 'delimiter' | 'hasHeader' | keyof typeof noWorkbook>;
}

async function readTextFile(file: Blob, choice: ReadChoice, onProgress: (bytes: number) => void): Promise<ReadFile> {
  const detected = await detectEncoding(file);
  const encoding = choice.encoding === undefined ? detected : { encoding: choice.encoding, hasMark: detected.hasMark };
  const sample = (await sampleOf(file, encoding.encoding)).replace(/^\ufeff/, '');
  const common = { encoding: encoding.encoding, onProgress };
  const info = { encoding, ...noWorkbook };
  if (choice.delimiter === undefined && isJsonLines(sample))
    return {
      table: await readJsonLines(file, common),
      info: { ...info, kind: 'jsonLines', delimiter: undefined, hasHeader: true },
    };
  const delimiter = choice.delimiter ?? detectDelimiter(sample);
  const hasHeader = choice.hasHeader ?? detectHeader(sample, delimiter);
  return {
    table: await readText(file, { ...common, delimiter, hasHeader }),
    info: { ...info, kind: 'table', delimiter, hasHeader },
  };
}

function templatesOf({ content }: Plan) {
  if (content.kind !== 'text') return [];
  const { body, format } = content.template;
  return [{ name: ownTemplate, body, format: format === 'json' ? TemplateFormat.JSON : TemplateFormat.TEXT }];
}

function templateProblem(text: string): Problem {
  return { code: 'template', values: { text } };
}

function withCredential({ credential }: Connection): Interceptor {
  return (next) => (request) => {
    if (credential !== undefined) request.header.set('authorization', `Bearer ${credential}`);
    return next(request);
  };
}

/** Whether a call had no answer. `fetch` throws a TypeError. */
function isConnectionLost(thrown: unknown): boolean {
  const { cause } = ConnectError.from(thrown);
  return cause instanceof ConnectionLost || cause instanceof TypeError;
}

/** An error as the page shows it; it crosses from the worker as data. */
export interface EngineError {
  readonly problem: Problem;
  /** Set for errors of calls. */
  readonly code?: number;
  readonly requestId?: string | undefined;
}

export function engineErrorOf(thrown: unknown): EngineError {
  if (thrown instanceof FileProblem) return { problem: thrown.problem };
  if (!(thrown instanceof ConnectError) && thrown instanceof Error && thrown.name !== 'AbortError')
    return { problem: { code: 'other', values: { text: thrown.message } } };
  const error = ConnectError.from(thrown);
  if (isConnectionLost(thrown)) return { problem: { code: 'connectionLost' }, code: error.code };
  return {
    problem: {
      code: 'refused',
      values: { reason: reasonOf(error) ?? Code[error.code] ?? '', text: error.rawMessage },
    },
    code: error.code,
    requestId: error.metadata.get('x-request-id') ?? undefined,
  };
}
