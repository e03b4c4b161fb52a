import { useId, useMemo, useState } from 'react';
import { useTexts } from '../i18n/use-texts.ts';
import { bestFormat, hexOf, jsonOf, type PayloadFormat, payloadFormats, textOf } from './payload.ts';
import { channelTexts } from './texts.ts';

/** A payload as text, JSON or hexadecimal; at first as what it is. */
export function PayloadView({ payload }: { readonly payload: Uint8Array }) {
  const t = useTexts(channelTexts);
  const name = useId();
  const [chosen, setChosen] = useState<PayloadFormat>();
  const best = useMemo(() => bestFormat(payload), [payload]);
  const shown = chosen ?? best;
  const text = useMemo(() => {
    if (shown === 'hex') return hexOf(payload);
    return shown === 'json' ? jsonOf(payload) : textOf(payload);
  }, [payload, shown]);
  return (
    <div className="stack tight">
      <fieldset className="choice">
        <legend className="visually-hidden">{t('message.format')}</legend>
        {payloadFormats.map((format) => (
          <label key={format}>
            <input
              type="radio"
              name={name}
              className="visually-hidden"
              checked={format === shown}
              onChange={() => setChosen(format)}
            />
            <span>{t(`message.formats.${format}`)}</span>
          </label>
        ))}
      </fieldset>
      {text === undefined ? (
        <p className="muted">{t(shown === 'json' ? 'message.notJson' : 'message.notText')}</p>
      ) : (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: a region that scrolls has to be reachable by keyboard (WCAG 2.1.1).
        <pre className={shown === 'hex' ? 'payload hex' : 'payload'} tabIndex={0}>
          {text}
        </pre>
      )}
    </div>
  );
}
