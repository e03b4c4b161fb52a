import { useEffect, useState } from 'react';
import { useTexts } from '../i18n/use-texts.ts';
import { uiTexts } from './texts.ts';

const shownMs = 2_000;

/** Copies a text; says so for two seconds. Without clipboard access (plain HTTP) it is not shown. */
export function CopyButton({ text, label }: { readonly text: string; readonly label?: string }) {
  const t = useTexts(uiTexts);
  const [isCopied, setCopied] = useState(false);
  useEffect(() => {
    if (!isCopied) return;
    const timer = setTimeout(() => setCopied(false), shownMs);
    return () => clearTimeout(timer);
  }, [isCopied]);
  if (!window.isSecureContext) return null;
  return (
    <button
      type="button"
      className="button small quiet"
      onClick={() =>
        void navigator.clipboard.writeText(text).then(
          () => setCopied(true),
          // The browser refused: the text can still be selected.
          () => setCopied(false),
        )
      }
    >
      <span role="status">{isCopied ? t('copied') : (label ?? t('copy'))}</span>
    </button>
  );
}
