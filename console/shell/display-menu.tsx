import { useEffect, useRef, useState } from 'react';
import { session } from '../api/session.ts';
import { browserTimeZone, setPreferences, type Theme, themes, usePreferences } from '../i18n/preferences.ts';
import type { Translator } from '../i18n/texts.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { Field } from '../ui/field.tsx';
import { SectionIcon } from '../ui/icons.tsx';
import { serviceUrl } from './paths.ts';
import { shellTexts } from './texts.ts';
import { useSession } from './use-session.ts';

/** Who is signed in, and how the console is shown. */
export function DisplayMenu() {
  const t = useTexts(shellTexts);
  const { language, theme, timeZone } = usePreferences();
  const current = useSession();
  const details = useRef<HTMLDetailsElement>(null);
  // 400 time zones are made when they can be seen.
  const [isOpen, setOpen] = useState(false);
  useCloseOutside(details);
  const info = current.state === 'signedIn' ? current.info : undefined;
  const caller = info?.caller;
  const hasCredential = current.state === 'signedIn' && current.hasCredential;
  return (
    <details className="menu" ref={details} onToggle={({ currentTarget }) => setOpen(currentTarget.open)}>
      <summary>
        <SectionIcon name="account" />
        <span className="visually-hidden">{t('account')}</span>
      </summary>
      <div className="menu-body card">
        {info === undefined ? null : (
          <div className="caller">
            {hasCredential && caller !== undefined ? (
              <>
                <p className="muted">{t(caller.isUser ? 'user' : 'service')}</p>
                <p className="caller-name">{caller.name}</p>
                <p className="muted">
                  {t('scopes', { scopes: caller.scopes.map((scope) => scopeName(t, scope)).join(', ') })}
                </p>
              </>
            ) : (
              <p>{t('anybody')}</p>
            )}
          </div>
        )}
        <Field label={t('language')}>
          {(props) => (
            <select
              {...props}
              value={language}
              onChange={(event) => setPreferences({ language: event.target.value === 'zh' ? 'zh' : 'en' })}
            >
              <option value="en" lang="en">
                English
              </option>
              <option value="zh" lang="zh-CN">
                中文
              </option>
            </select>
          )}
        </Field>
        <Field label={t('theme')}>
          {(props) => (
            <select
              {...props}
              value={theme}
              onChange={(event) => setPreferences({ theme: event.target.value as Theme })}
            >
              {themes.map((each) => (
                <option key={each} value={each}>
                  {t(`themes.${each}`)}
                </option>
              ))}
            </select>
          )}
        </Field>
        <Field label={t('timeZone')}>
          {(props) => (
            <select {...props} value={timeZone} onChange={(event) => setPreferences({ timeZone: event.target.value })}>
              <option value="">{t('browserZone', { zone: browserTimeZone })}</option>
              {(isOpen ? timeZones() : timeZone === '' ? [] : [timeZone]).map((zone) => (
                <option key={zone}>{zone}</option>
              ))}
            </select>
          )}
        </Field>
        <p className="menu-links">
          <a href={`${serviceUrl}/docs`}>{t('docs')}</a>
          {info === undefined ? null : <span className="muted">{t('version', { version: info.version })}</span>}
        </p>
        {hasCredential ? (
          <button type="button" className="button" onClick={session.signOut}>
            {t('signOut')}
          </button>
        ) : null}
      </div>
    </details>
  );
}

function timeZones(): string[] {
  return ['UTC', ...Intl.supportedValuesOf('timeZone').filter((zone) => zone !== 'UTC')];
}

const scopeNames = ['send', 'read', 'admin', 'metrics'] as const;

export function scopeName(t: Translator<typeof shellTexts.en>, scope: string): string {
  const known = scopeNames.find((each) => each === scope);
  return known === undefined ? scope : t(`scopeNames.${known}`);
}

/** Closes a menu at Escape, and when the focus or a click goes elsewhere. */
function useCloseOutside(details: React.RefObject<HTMLDetailsElement | null>): void {
  useEffect(() => {
    const onAway = (event: Event) => {
      const element = details.current;
      if (element?.open && event.target instanceof Node && !element.contains(event.target)) element.open = false;
    };
    const onKey = (event: KeyboardEvent) => {
      const element = details.current;
      if (event.key !== 'Escape' || !element?.open) return;
      element.open = false;
      element.querySelector('summary')?.focus();
    };
    document.addEventListener('pointerdown', onAway);
    document.addEventListener('focusin', onAway);
    document.addEventListener('keydown', onKey);
    return () => {
      document.removeEventListener('pointerdown', onAway);
      document.removeEventListener('focusin', onAway);
      document.removeEventListener('keydown', onKey);
    };
  }, [details]);
}
