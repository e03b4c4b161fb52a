import { useSyncExternalStore } from 'react';
import { createStore } from '../api/store.ts';
import { type Language, languages } from './language.ts';

export const themes = ['system', 'light', 'dark'] as const;
export type Theme = (typeof themes)[number];

/** How this browser shows the console. No secret, so it is kept across visits. */
export interface Preferences {
  readonly language: Language;
  readonly theme: Theme;
  /** An IANA name; empty: the browser's. */
  readonly timeZone: string;
}

const storageKey = 'sendbatch.console';
const store = createStore<Preferences>(load());
apply(store.get());

export function setPreferences(change: Partial<Preferences>): void {
  const next = { ...store.get(), ...change };
  store.set(next);
  apply(next);
  try {
    localStorage.setItem(storageKey, JSON.stringify(next));
  } catch {
    // A browser that stores nothing still shows the console.
  }
}

export function usePreferences(): Preferences {
  return useSyncExternalStore(store.subscribe, store.get);
}

/** The time zone of times that are shown and entered. */
export function useTimeZone(): string {
  const { timeZone } = usePreferences();
  return timeZone === '' ? browserTimeZone : timeZone;
}

export const browserTimeZone = Intl.DateTimeFormat().resolvedOptions().timeZone;

function load(): Preferences {
  let stored: Partial<Preferences> = {};
  try {
    stored = JSON.parse(localStorage.getItem(storageKey) ?? '{}') as Partial<Preferences>;
  } catch {
    // Unreadable or forbidden: the browser's own preferences hold.
  }
  const { language, theme, timeZone } = stored;
  return {
    language: languages.find((each) => each === language) ?? (navigator.language.startsWith('zh') ? 'zh' : 'en'),
    theme: themes.find((each) => each === theme) ?? 'system',
    timeZone: typeof timeZone === 'string' && isTimeZone(timeZone) ? timeZone : '',
  };
}

export function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name === '' ? undefined : name });
    return true;
  } catch {
    return false;
  }
}

function apply({ language, theme }: Preferences): void {
  const { documentElement } = document;
  documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
  if (theme === 'system') delete documentElement.dataset.theme;
  else documentElement.dataset.theme = theme;
}
