import { Component, type ReactNode } from 'react';
import { useTexts } from '../i18n/use-texts.ts';
import { uiTexts } from '../ui/texts.ts';

interface State {
  readonly error: unknown;
}

/** Keeps the rest of the console when a page fails, or cannot be loaded after an update. */
export class Crash extends Component<{ readonly children: ReactNode }, State> {
  override state: State = { error: undefined };

  static getDerivedStateFromError(error: unknown): State {
    return { error };
  }

  override render(): ReactNode {
    const { error } = this.state;
    return error === undefined ? this.props.children : <CrashNotice error={error} />;
  }
}

function CrashNotice({ error }: { readonly error: unknown }) {
  const t = useTexts(uiTexts);
  const message = error instanceof Error ? error.message : String(error);
  // Each browser has its own words for a module that is gone.
  const isStale = /dynamically imported module|module script failed|preload CSS/i.test(message);
  return (
    <div className="notice error" role="alert">
      <p className="notice-title">{isStale ? t('staleTitle') : t('crashed')}</p>
      <p>{isStale ? t('stale') : message}</p>
      <button type="button" className="button" onClick={() => location.reload()}>
        {t('reload')}
      </button>
    </div>
  );
}
