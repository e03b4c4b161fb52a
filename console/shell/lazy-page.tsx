import { type ComponentType, useEffect, useState } from 'react';
import { useTexts } from '../i18n/use-texts.ts';
import { Loading } from '../ui/feedback.tsx';
import { uiTexts } from '../ui/texts.ts';
import { serviceUrl } from './paths.ts';
import type { LoadPage } from './sections.ts';

type State = 'loading' | 'loaded' | 'unreachable' | 'stale';

/** Pages that were loaded before are shown at once. */
const loaded = new Map<LoadPage, ComponentType>();

/**
 * A page whose code is loaded when it is opened. React.lazy keeps a failure, so that a page opened
 * while the network was down would stay broken; this one loads again when it is asked to.
 */
export function LazyPage({ load }: { readonly load: LoadPage }) {
  const [state, setState] = useState<State>('loading');
  const Page = loaded.get(load);
  useEffect(() => {
    if (state !== 'loading' || loaded.has(load)) return;
    let isGone = false;
    const finish = (next: State) => {
      if (!isGone) setState(next);
    };
    load().then(
      ({ default: page }) => {
        loaded.set(load, page);
        finish('loaded');
      },
      async () => finish((await isReachable()) ? 'stale' : 'unreachable'),
    );
    return () => {
      isGone = true;
    };
  }, [load, state]);
  if (Page !== undefined) return <Page />;
  return state === 'loading' ? (
    <Loading />
  ) : (
    <NotLoaded isStale={state === 'stale'} onRetry={() => setState('loading')} />
  );
}

/** Whether the service answers; if it does, the page's code was replaced by a newer version. */
async function isReachable(): Promise<boolean> {
  try {
    await fetch(`${serviceUrl}/console/`, { method: 'HEAD', cache: 'no-store' });
    return true;
  } catch {
    return false;
  }
}

function NotLoaded({ isStale, onRetry }: { readonly isStale: boolean; readonly onRetry: () => void }) {
  const t = useTexts(uiTexts);
  return (
    <div className="notice error" role="alert">
      <p className="notice-title">{t(isStale ? 'staleTitle' : 'errorTitle')}</p>
      <p>{t(isStale ? 'stale' : 'unreachable')}</p>
      <button type="button" className="button" onClick={isStale ? () => location.reload() : onRetry}>
        {t(isStale ? 'reload' : 'retry')}
      </button>
    </div>
  );
}
