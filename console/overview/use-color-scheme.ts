import { useSyncExternalStore } from 'react';
import { usePreferences } from '../i18n/preferences.ts';

const dark = window.matchMedia('(prefers-color-scheme: dark)');

function subscribe(listener: () => void): () => void {
  dark.addEventListener('change', listener);
  return () => dark.removeEventListener('change', listener);
}

/** Whether the console is shown light or dark, by the preferences or the system. */
export function useColorScheme(): 'light' | 'dark' {
  const { theme } = usePreferences();
  const isSystemDark = useSyncExternalStore(subscribe, () => dark.matches);
  if (theme !== 'system') return theme;
  return isSystemDark ? 'dark' : 'light';
}
