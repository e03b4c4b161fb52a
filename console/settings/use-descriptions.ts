import { useEffect, useState } from 'react';
import { usePreferences } from '../i18n/preferences.ts';

/**
 * What each setting does, by its name, in the user's language. The service describes them in
 * English; the Chinese texts are those of the documentation.
 */
export function useDescriptions(): Readonly<Record<string, string>> {
  const { language } = usePreferences();
  const [texts, setTexts] = useState<Readonly<Record<string, string>>>({});
  useEffect(() => {
    let isCurrent = true;
    if (language === 'zh')
      void import('../../scripts/settings.zh.json').then(
        ({ default: chinese }) => {
          if (isCurrent) setTexts(chinese.settings);
        },
        // Without a network the English texts stay.
        () => {},
      );
    else setTexts({});
    return () => {
      isCurrent = false;
    };
  }, [language]);
  return texts;
}
