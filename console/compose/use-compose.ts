import { useSyncExternalStore } from 'react';
import { ownUid, work } from './work.ts';

/** The work of the page, followed by a component. */
export function useCompose() {
  const state = useSyncExternalStore(work.subscribe, work.get);
  return { ...state, engine: work.engine, ownUid: ownUid() };
}

export type Compose = ReturnType<typeof useCompose>;
