import type { Audience } from './audience.ts';
import type {
  CheckReport,
  Connection,
  EngineError,
  FileInfo,
  Preview,
  ReadChoice,
  ShownRow,
  Submitted,
  TestTarget,
  UploadState,
} from './engine.ts';
import type { Plan } from './plan.ts';
import type { FromWorker, Method, ToWorker } from './protocol.ts';
import type { SubmitChoice } from './upload.ts';

/** An error of the engine, with its problem in words of the page. */
export class ComposeError extends Error {
  readonly detail: EngineError;
  constructor(detail: EngineError) {
    super(detail.problem.code);
    this.detail = detail;
  }
}

interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: never) => void) | undefined;
}

/** The engine in its worker. */
export class ComposeClient {
  #worker: Worker | undefined;
  readonly #calls = new Map<
    number,
    { resolve(result: never): void; reject(error: unknown): void; options: CallOptions }
  >();
  #nextId = 1;

  open(file: Blob, choice: ReadChoice, onProgress: (bytes: number) => void): Promise<FileInfo> {
    return this.#call('open', [file, choice], { onProgress });
  }

  /** Forgets the file and its rows. */
  close(): Promise<void> {
    return this.#call('close', []);
  }

  rows(from: number, count: number): Promise<ShownRow[]> {
    return this.#call('rows', [from, count]);
  }

  audience(plan: Plan, options: { signal: AbortSignal; onProgress: (rows: number) => void }): Promise<Audience> {
    return this.#call('audience', [plan], options);
  }

  nextRow(from: number, step: 1 | -1): Promise<number> {
    return this.#call('nextRow', [from, step]);
  }

  preview(plan: Plan, row: number): Promise<Preview> {
    return this.#call('preview', [plan, row]);
  }

  check(
    connection: Connection,
    plan: Plan,
    options: { signal: AbortSignal; onProgress: (checked: number) => void },
  ): Promise<CheckReport> {
    return this.#call('check', [connection, plan], options);
  }

  sendTest(connection: Connection, plan: Plan, target: TestTarget): Promise<bigint> {
    return this.#call('sendTest', [connection, plan, target]);
  }

  submit(
    connection: Connection,
    plan: Plan,
    choice: SubmitChoice & { readonly withRefused: boolean },
    options: { signal: AbortSignal; onProgress: (state: UploadState) => void },
  ): Promise<Submitted> {
    return this.#call('submit', [connection, plan, choice], options);
  }

  /** Ends the worker; calls in progress never settle. */
  stop(): void {
    this.#worker?.terminate();
    this.#worker = undefined;
    this.#calls.clear();
  }

  /** Starts the worker. After an error of its own it is started again by the next call. */
  #start(): Worker {
    const worker = new Worker(new URL('./worker.ts', import.meta.url), { type: 'module' });
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
      const call = this.#calls.get(data.id);
      if (call === undefined) return;
      if ('progress' in data) return call.options.onProgress?.(data.progress as never);
      this.#calls.delete(data.id);
      if ('error' in data) call.reject(new ComposeError(data.error));
      else call.resolve(data.result as never);
    };
    worker.onerror = (event) => {
      const error = new ComposeError({ problem: { code: 'worker', values: { text: event.message ?? '' } } });
      const calls = [...this.#calls.values()];
      this.stop();
      for (const { reject } of calls) reject(error);
    };
    return worker;
  }

  #call<T>(method: Method, values: readonly unknown[], options: CallOptions = {}): Promise<T> {
    const id = this.#nextId++;
    return new Promise<T>((resolve, reject) => {
      this.#calls.set(id, { resolve, reject, options });
      this.#post({ id, method, values });
      const abort = () => {
        if (this.#calls.has(id)) this.#post({ id, abort: true });
      };
      options.signal?.addEventListener('abort', abort, { once: true });
    });
  }

  #post(message: ToWorker): void {
    this.#worker ??= this.#start();
    this.#worker.postMessage(message);
  }
}
