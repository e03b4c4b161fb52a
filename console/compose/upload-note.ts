/** An upload of which this page does not know whether it has arrived. */
export interface UploadNote {
  readonly requestId: string;
  readonly messageCount: number;
  /** The name of the batch. */
  readonly name: string;
  /** False after a reload: the page that uploaded it is gone. */
  readonly isOfPage: boolean;
}

const storageKey = 'sendbatch.console.upload';

/** The note that a reload of this tab has left. It holds no message and no credential. */
export function keptNote(): UploadNote | undefined {
  try {
    const kept = JSON.parse(sessionStorage.getItem(storageKey) ?? 'null') as UploadNote | null;
    if (typeof kept?.requestId !== 'string') return undefined;
    return { ...kept, isOfPage: false };
  } catch {
    // Unreadable, or storage is forbidden.
    return undefined;
  }
}

/** Keeps a note across a reload of this tab; undefined removes it. */
export function keepNote(note: UploadNote | undefined): void {
  try {
    if (note === undefined) sessionStorage.removeItem(storageKey);
    else sessionStorage.setItem(storageKey, JSON.stringify(note));
  } catch {
    // A browser that stores nothing still uploads.
  }
}
