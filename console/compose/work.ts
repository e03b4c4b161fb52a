import { Code, ConnectError } from '@connectrpc/connect';
import type { BatchPriority } from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
import { currentCredential, session } from '../api/session.ts';
import { createStore } from '../api/store.ts';
import { serviceUrl } from '../shell/paths.ts';
import type { Audience } from './engine/audience.ts';
import { ComposeClient, ComposeError } from './engine/client.ts';
import type { CheckReport, Connection, FileInfo, ReadChoice, Submitted, UploadState } from './engine/engine.ts';
import type { Plan } from './engine/plan.ts';
import { type Form, formFor, planOf, refit } from './form.ts';
import { keepNote, keptNote, type UploadNote } from './upload-note.ts';

/** A file that is open, with its name. */
export interface OpenFile {
  readonly file: Blob;
  readonly name: string;
  readonly info: FileInfo;
}

export interface Reading {
  readonly name: string;
  readonly share: number;
}

/** How and when the batch is sent, as entered. */
export interface Sending {
  readonly name: string;
  readonly priority: 'low' | 'normal' | 'high';
  readonly isLater: boolean;
  /** The value of an `<input type="datetime-local">`. */
  readonly local: string;
  /** An IANA name; undefined: the zone of the preferences. */
  readonly zone: string | undefined;
}

/** A batch as the user has confirmed it. */
export interface Confirmed {
  readonly name: string;
  readonly priority: BatchPriority;
  readonly sendAtMs: number | undefined;
  /** The batch of the same messages that is followed by this one; undefined: the first. */
  readonly after: string | undefined;
}

/** Everything that the page Compose knows. */
export interface WorkState {
  readonly reading: Reading | undefined;
  readonly error: unknown;
  readonly open: OpenFile | undefined;
  readonly form: Form | undefined;
  /** What the form means; undefined while something is missing. */
  readonly plan: Plan | undefined;
  readonly sending: Sending;
  readonly previewRow: number;
  /** Whether messages that the service would refuse now are submitted too. */
  readonly withRefused: boolean;
  readonly audience: Audience | undefined;
  readonly countingShare: number | undefined;
  readonly report: CheckReport | undefined;
  /** Messages checked so far, while a check runs. */
  readonly checkedCount: number | undefined;
  readonly checkError: unknown;
  /** Set while an upload runs. */
  readonly upload: UploadState | undefined;
  readonly result: Submitted | undefined;
  readonly uploadError: unknown;
  /** What the last upload was to submit, for another attempt. */
  readonly confirmed: Confirmed | undefined;
  /** An upload of which it is not known whether it has arrived. */
  readonly note: UploadNote | undefined;
}

const noSending: Sending = { name: '', priority: 'normal', isLater: false, local: '', zone: undefined };

const empty: Omit<WorkState, 'note'> = {
  reading: undefined,
  error: undefined,
  open: undefined,
  form: undefined,
  plan: undefined,
  sending: noSending,
  previewRow: 0,
  withRefused: true,
  audience: undefined,
  countingShare: undefined,
  report: undefined,
  checkedCount: undefined,
  checkError: undefined,
  upload: undefined,
  result: undefined,
  uploadError: undefined,
  confirmed: undefined,
};

/** Progress in smaller steps would only render the page more often. */
const shownStep = 0.05;
/** A pause after the last keystroke before 100,000 rows are counted again. */
const quietMs = 300;

/** The service as the engine calls it. */
export function connection(): Connection {
  return { baseUrl: serviceUrl, credential: currentCredential() };
}

/**
 * The work of the page Compose. It is kept while the user visits other pages of the console, and an
 * upload goes on meanwhile. It ends with the sign-out, a reload or a closed tab.
 *
 * Invariants:
 *  1. Each change of the file or the form makes the count and the check void.
 *  2. One upload runs at a time, and nothing can be changed while it runs.
 */
class ComposeWork {
  readonly #store = createStore<WorkState>({ ...empty, note: keptNote() });
  readonly subscribe = this.#store.subscribe;
  readonly get = this.#store.get;
  #engine: ComposeClient | undefined;
  #counting = new AbortController();
  #checking = new AbortController();
  #uploading = new AbortController();

  #owner = callerName();

  constructor() {
    session.subscribe(() => this.#onSession());
    this.#askOtherTabs();
    // A reload or a closed tab would lose the work.
    window.addEventListener('beforeunload', (event) => {
      const { open, result } = this.get();
      if (open !== undefined && result === undefined) event.preventDefault();
    });
  }

  get engine(): ComposeClient {
    this.#engine ??= new ComposeClient();
    return this.#engine;
  }

  /** Opens a file, or reads the open one in another way. */
  async read(file: Blob, name: string, choice: ReadChoice): Promise<void> {
    const { open } = this.get();
    const isOther = open?.file !== file;
    this.#voidCount();
    this.#set({ error: undefined, reading: { name, share: 0 } });
    const onProgress = (bytes: number) => {
      const share = bytes / Math.max(file.size, 1);
      if (share >= (this.get().reading?.share ?? 0) + shownStep) this.#set({ reading: { name, share } });
    };
    try {
      const info = await this.engine.open(file, choice, onProgress);
      const { form } = this.get();
      const uid = ownUid();
      this.#set({
        open: { file, name, info },
        form: form === undefined || isOther ? formFor(info, uid) : refit(form, info, uid),
      });
      if (isOther) this.#set({ previewRow: 0, withRefused: true, sending: { ...noSending, name: shortName(name) } });
      this.#count();
    } catch (thrown) {
      this.#set({ error: thrown });
      // The file stays, so that another encoding can be tried.
      if (isOther) this.#set({ open: undefined, form: undefined, plan: undefined });
    } finally {
      this.#set({ reading: undefined });
    }
  }

  change(values: Partial<Form>): void {
    const { form } = this.get();
    if (form === undefined) return;
    this.#set({ form: { ...form, ...values } });
    this.#count();
  }

  changeSending(values: Partial<Sending>): void {
    this.#set({ sending: { ...this.get().sending, ...values } });
  }

  setPreviewRow(previewRow: number): void {
    this.#set({ previewRow });
  }

  setWithRefused(withRefused: boolean): void {
    this.#set({ withRefused });
  }

  /** Asks the service about every message. */
  async check(): Promise<void> {
    const { plan, checkedCount } = this.get();
    if (plan === undefined || checkedCount !== undefined) return;
    this.#checking = new AbortController();
    const { signal } = this.#checking;
    this.#set({ checkError: undefined, report: undefined, checkedCount: 0 });
    const onProgress = (count: number) => this.#ifRunning(signal, { checkedCount: count });
    const service = connection();
    try {
      const report = await this.engine.check(service, plan, { signal, onProgress });
      this.#ifRunning(signal, { report });
    } catch (thrown) {
      this.#ifRunning(signal, { checkError: thrown });
      toSignIn(thrown, service);
    } finally {
      this.#ifRunning(signal, { checkedCount: undefined });
    }
  }

  stopCheck(): void {
    this.#checking.abort();
    this.#set({ checkedCount: undefined });
  }

  /** Uploads the batch. A second call while it runs does nothing. */
  async submit(confirmed: Confirmed): Promise<void> {
    const { plan, upload, withRefused } = this.get();
    if (plan === undefined || upload !== undefined) return;
    this.#uploading = new AbortController();
    const { signal } = this.#uploading;
    this.#set({ upload: { step: 'preparing' }, result: undefined, uploadError: undefined, confirmed });
    const onProgress = (state: UploadState) => {
      if (state.step !== 'prepared') return this.#ifRunning(signal, { upload: state });
      const { requestId, messageCount } = state;
      this.#note({ requestId, messageCount, name: confirmed.name, isOfPage: true });
    };
    const service = connection();
    try {
      const choice = { ...confirmed, withRefused };
      const result = await this.engine.submit(service, plan, choice, { signal, onProgress });
      this.#set({ result });
      this.#note(undefined);
    } catch (thrown) {
      if (!signal.aborted) this.#set({ uploadError: thrown });
      toSignIn(thrown, service);
      // Nothing is left to find out when the service itself has refused the batch.
      if (!signal.aborted && !isOpenEnd(thrown)) this.#note(undefined);
    } finally {
      this.#set({ upload: undefined });
    }
  }

  stopUpload(): void {
    this.#uploading.abort();
  }

  /** Called when the user knows what became of an upload. */
  dismissNote(): void {
    this.#note(undefined);
  }

  /** Begins again without a file. */
  reset(): void {
    this.#voidCount();
    void this.#engine?.close();
    this.#set(empty);
  }

  /** A duplicated tab has the note of an upload that still runs in the first one. */
  #askOtherTabs(): void {
    const tabs = new BroadcastChannel('sendbatch.console.upload');
    tabs.onmessage = ({ data: { asked, runs } }: MessageEvent<{ readonly asked?: string; readonly runs?: string }>) => {
      const { note, upload } = this.get();
      if (note === undefined) return;
      if (asked === note.requestId && upload !== undefined) tabs.postMessage({ runs: asked });
      if (runs === note.requestId && upload === undefined) this.#note(undefined);
    };
    const { note } = this.get();
    if (note !== undefined) tabs.postMessage({ asked: note.requestId });
  }

  /** Keeps the work for the same caller, whose credential may have expired, and for nobody else. */
  #onSession(): void {
    const current = session.get();
    if (current.state === 'signedOut' && current.error === undefined) this.#end();
    if (current.state !== 'signedIn' || callerName() === this.#owner) return;
    this.#owner = callerName();
    this.#end();
  }

  #end(): void {
    this.#uploading.abort();
    this.#voidCount();
    this.#engine?.stop();
    this.#engine = undefined;
    this.#note(undefined);
    this.#set(empty);
  }

  #voidCount(): void {
    this.#counting.abort();
    this.#checking.abort();
    this.#set({
      audience: undefined,
      countingShare: undefined,
      report: undefined,
      checkedCount: undefined,
      checkError: undefined,
    });
  }

  /** Counts the audience after each change of the plan. */
  #count(): void {
    this.#voidCount();
    const { form, open } = this.get();
    const plan = form === undefined ? undefined : planOf(form);
    this.#set({ plan });
    if (plan === undefined || open === undefined) return;
    this.#counting = new AbortController();
    const { signal } = this.#counting;
    const rows = Math.max(open.info.rowCount, 1);
    const onProgress = (done: number) => {
      const share = done / rows;
      if (share >= (this.get().countingShare ?? 0) + shownStep) this.#ifRunning(signal, { countingShare: share });
    };
    setTimeout(() => {
      if (signal.aborted) return;
      this.#set({ countingShare: 0 });
      this.engine.audience(plan, { signal, onProgress }).then(
        (audience) => this.#ifRunning(signal, { audience, countingShare: undefined }),
        (thrown: unknown) => this.#ifRunning(signal, { checkError: thrown, countingShare: undefined }),
      );
    }, quietMs);
  }

  #note(note: UploadNote | undefined): void {
    keepNote(note);
    this.#set({ note });
  }

  #ifRunning(signal: AbortSignal, values: Partial<WorkState>): void {
    if (!signal.aborted) this.#set(values);
  }

  #set(values: Partial<WorkState>): void {
    this.#store.set({ ...this.get(), ...values });
  }
}

export const work = new ComposeWork();

/** The user's own uid; undefined for a service's credential. */
export function ownUid(): string | undefined {
  const current = session.get();
  const caller = current.state === 'signedIn' ? current.info.caller : undefined;
  return caller?.isUser ? caller.name : undefined;
}

function callerName(): string | undefined {
  const current = session.get();
  return current.state === 'signedIn' ? current.info.caller?.name : undefined;
}

/** The engine calls the service by itself; an expired credential leads to the sign-in all the same. */
export function toSignIn(thrown: unknown, { credential }: Connection): void {
  if (thrown instanceof ComposeError && thrown.detail.code === Code.Unauthenticated)
    session.onCallError(new ConnectError('', Code.Unauthenticated), credential);
}

const openEndCodes: readonly number[] = [Code.Unavailable, Code.DeadlineExceeded, Code.Unknown, Code.Canceled];

/** Whether the batch may have arrived although its upload failed. */
function isOpenEnd(thrown: unknown): boolean {
  if (!(thrown instanceof ComposeError)) return true;
  const { code, problem } = thrown.detail;
  return problem.code === 'worker' || (code !== undefined && openEndCodes.includes(code));
}

/** Limit of the service for a batch's name, in bytes. */
const nameBytes = 128;

/** A name within the service's limit, without the ending of a file. */
export function shortName(text: string): string {
  const name = text.replace(/\.(csv|tsv|txt|ndjson|jsonl|xlsx)$/i, '').trim();
  const bytes = new TextEncoder().encode(name).subarray(0, nameBytes);
  // A character cut in the middle is left out.
  return new TextDecoder().decode(bytes).replace(/\uFFFD$/, '');
}
