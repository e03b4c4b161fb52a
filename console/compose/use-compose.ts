import { useEffect, useMemo, useState } from 'react';
import { currentCredential } from '../api/session.ts';
import { serviceUrl } from '../shell/paths.ts';
import { useSession } from '../shell/use-session.ts';
import type { Audience } from './engine/audience.ts';
import { ComposeClient } from './engine/client.ts';
import type { CheckReport, Connection, FileInfo, ReadChoice } from './engine/engine.ts';
import type { Plan } from './engine/plan.ts';
import { type Form, formFor, planOf, refit } from './form.ts';

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

/** The service as the engine calls it. */
export function connection(): Connection {
  return { baseUrl: serviceUrl, credential: currentCredential() };
}

/** The engine of this page; undefined before the first effect. */
function useEngine(): ComposeClient | undefined {
  const [engine, setEngine] = useState<ComposeClient>();
  useEffect(() => {
    const created = new ComposeClient();
    setEngine(created);
    return () => created.stop();
  }, []);
  return engine;
}

/** Everything that the page knows: the file, the choices, and what follows from them. */
export function useCompose() {
  const engine = useEngine();
  const session = useSession();
  const caller = session.state === 'signedIn' ? session.info.caller : undefined;
  const ownUid = caller?.isUser ? caller.name : undefined;
  const [open, setOpen] = useState<OpenFile>();
  const [reading, setReading] = useState<Reading>();
  const [error, setError] = useState<unknown>();
  const [form, setForm] = useState<Form>();
  const [fileCount, setFileCount] = useState(0);
  const [previewRow, setPreviewRow] = useState(0);
  const [withRefused, setWithRefused] = useState(true);
  const [isSubmitted, setSubmitted] = useState(false);
  const plan = useMemo(() => (form === undefined ? undefined : planOf(form)), [form]);
  const counted = useAudience(engine, open, plan);

  async function read(file: Blob, name: string, choice: ReadChoice): Promise<void> {
    if (engine === undefined) return;
    setError(undefined);
    setReading({ name, share: 0 });
    try {
      const info = await engine.open(file, choice, (bytes) =>
        setReading({ name, share: bytes / Math.max(file.size, 1) }),
      );
      setForm((old) => (old === undefined || open?.file !== file ? formFor(info, ownUid) : refit(old, info, ownUid)));
      if (open?.file !== file) {
        setFileCount((count) => count + 1);
        setPreviewRow(0);
        setWithRefused(true);
      }
      setOpen({ file, name, info });
    } catch (thrown) {
      setError(thrown);
      // The file stays, so that another encoding can be tried.
      if (open?.file !== file) setOpen(undefined);
    } finally {
      setReading(undefined);
    }
  }

  function reset(): void {
    void engine?.close();
    setOpen(undefined);
    setForm(undefined);
    setError(undefined);
    setSubmitted(false);
  }

  useLeaveWarning(open !== undefined && !isSubmitted);
  return {
    engine,
    open,
    reading,
    error,
    form,
    plan,
    ownUid,
    /** Changes with each other file. */
    fileCount,
    previewRow,
    setPreviewRow,
    /** Whether messages that the service would refuse now are submitted too. */
    withRefused,
    setWithRefused,
    /** After that nothing is lost when the page is left. */
    setSubmitted,
    ...counted,
    read,
    reset,
    change: (values: Partial<Form>) => setForm((old) => (old === undefined ? old : { ...old, ...values })),
  };
}

export type Compose = ReturnType<typeof useCompose>;

/** A pause after the last keystroke before 100,000 rows are counted again. */
const quietMs = 300;

/** Counts the audience again after each change of the plan; the last check is then void. */
function useAudience(engine: ComposeClient | undefined, open: OpenFile | undefined, plan: Plan | undefined) {
  const [audience, setAudience] = useState<Audience>();
  const [share, setShare] = useState<number>();
  const [report, setReport] = useState<CheckReport>();
  useEffect(() => {
    setAudience(undefined);
    setReport(undefined);
    setShare(undefined);
    if (engine === undefined || open === undefined || plan === undefined) return;
    const controller = new AbortController();
    const rows = Math.max(open.info.rowCount, 1);
    const timer = setTimeout(() => {
      setShare(0);
      engine.audience(plan, { signal: controller.signal, onProgress: (done) => setShare(done / rows) }).then(
        (counted) => {
          if (controller.signal.aborted) return;
          setAudience(counted);
          setShare(undefined);
        },
        () => {},
      );
    }, quietMs);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [engine, open, plan]);
  return { audience, countingShare: share, report, setReport };
}

/** Asks before a reload or a closed tab loses the work. */
function useLeaveWarning(isActive: boolean): void {
  useEffect(() => {
    if (!isActive) return;
    const warn = (event: BeforeUnloadEvent) => event.preventDefault();
    window.addEventListener('beforeunload', warn);
    return () => window.removeEventListener('beforeunload', warn);
  }, [isActive]);
}
