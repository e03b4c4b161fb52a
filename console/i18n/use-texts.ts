import { useMemo } from 'react';
import { usePreferences, useTimeZone } from './preferences.ts';
import { type Texts, type Translator, type Tree, translatorOf } from './texts.ts';

/** The function that gives a text in the user's language: `t('title')`, `t('rows', { count })`. */
export function useTexts<T extends Tree>(texts: Texts<T>): Translator<T> {
  const { language } = usePreferences();
  const timeZone = useTimeZone();
  return useMemo(() => translatorOf(texts, language, timeZone), [texts, language, timeZone]);
}
