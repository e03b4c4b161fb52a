import { useSyncExternalStore } from 'react';
import { type Scope, type Session, session } from '../api/session.ts';

export function useSession(): Session {
  return useSyncExternalStore(session.subscribe, session.get);
}

/** Whether the caller has a scope; pages hide what it may not do. */
export function useHasScope(scope: Scope): boolean {
  return hasScope(useSession(), scope);
}

export function hasScope(current: Session, scope: Scope): boolean {
  if (current.state !== 'signedIn') return false;
  return current.info.caller?.scopes.includes(scope) ?? true;
}
