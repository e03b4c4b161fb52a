import { type FormEvent, useEffect, useRef, useState } from 'react';
import { session } from '../api/session.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { ErrorNotice, Notice } from '../ui/feedback.tsx';
import { Field } from '../ui/field.tsx';
import { shellTexts } from './texts.ts';

/** Asks for a credential. The page that was asked for opens afterwards: the address stays. */
export function SignIn({ wasSignedIn }: { readonly wasSignedIn: boolean }) {
  const t = useTexts(shellTexts);
  const [credential, setCredential] = useState('');
  const [error, setError] = useState<unknown>();
  const [isEmpty, setEmpty] = useState(false);
  const [isChecking, setChecking] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  // Also where a page was left because its credential had expired.
  useEffect(() => input.current?.focus(), []);
  useEffect(() => {
    document.title = `${t('signIn.title')} · sendbatch`;
  }, [t]);

  async function submit(event: FormEvent): Promise<void> {
    event.preventDefault();
    const candidate = credential.trim();
    setEmpty(candidate === '');
    setError(undefined);
    if (candidate === '') return;
    setChecking(true);
    try {
      await session.signIn(candidate);
    } catch (thrown) {
      setError(thrown);
      setChecking(false);
    }
  }

  return (
    <form className="sign-in card" onSubmit={(event) => void submit(event)}>
      <h1>{t('signIn.title')}</h1>
      <p className="lead">{t('signIn.lead')}</p>
      {wasSignedIn && error === undefined ? <Notice kind="warning">{t('signIn.expired')}</Notice> : null}
      <Field label={t('signIn.credential')} hint={t('signIn.memory')} error={isEmpty ? t('signIn.empty') : undefined}>
        {(props) => (
          <input
            {...props}
            ref={input}
            type="password"
            autoComplete="current-password"
            spellCheck={false}
            value={credential}
            onChange={(event) => setCredential(event.target.value)}
          />
        )}
      </Field>
      {error === undefined ? null : <ErrorNotice error={error} />}
      <button type="submit" className="button primary" disabled={isChecking}>
        {isChecking ? t('signIn.checking') : t('signIn.submit')}
      </button>
    </form>
  );
}
