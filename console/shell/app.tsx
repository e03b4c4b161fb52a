import { TransportProvider } from '@connectrpc/connect-query';
import { QueryClientProvider } from '@tanstack/react-query';
import { useEffect, useState } from 'react';
import { Link, Redirect, Route, Router, Switch, useLocation } from 'wouter';
import { transport } from '../api/client.ts';
import { createQueryClient } from '../api/query.ts';
import { type Session, session } from '../api/session.ts';
import { useTexts } from '../i18n/use-texts.ts';
import { Empty, ErrorNotice, Loading } from '../ui/feedback.tsx';
import { SectionIcon } from '../ui/icons.tsx';
import { noteLocation } from '../ui/navigation.ts';
import { Page } from '../ui/page.tsx';
import { Crash } from './crash.tsx';
import { DisplayMenu, scopeName } from './display-menu.tsx';
import { LazyPage } from './lazy-page.tsx';
import { NotFound } from './not-found.tsx';
import { consolePath } from './paths.ts';
import { type LoadPage, type Section, sections } from './sections.ts';
import { SignIn } from './sign-in.tsx';
import { shellTexts } from './texts.ts';
import { hasScope, useSession } from './use-session.ts';

const pages: readonly { readonly route: string; readonly section: Section; readonly load: LoadPage }[] =
  sections.flatMap((section) => Object.entries(section.pages).map(([route, load]) => ({ route, section, load })));

/** The whole console: header, navigation and the page of the address. */
export function App() {
  const current = useSession();
  // Another caller must not see what the last one has read.
  const [queryClient, setQueryClient] = useState(createQueryClient);
  useEffect(() => {
    if (current.state === 'signedOut') setQueryClient(createQueryClient());
  }, [current.state]);
  return (
    <TransportProvider transport={transport}>
      <QueryClientProvider client={queryClient}>
        <Router base={consolePath}>
          <Shell current={current} />
        </Router>
      </QueryClientProvider>
    </TransportProvider>
  );
}

function Shell({ current }: { readonly current: Session }) {
  const t = useTexts(shellTexts);
  const [path] = useLocation();
  const [isMenuOpen, setMenuOpen] = useState(false);
  useEffect(() => {
    noteLocation(path);
    setMenuOpen(false);
  }, [path]);
  const isSignedIn = current.state === 'signedIn';
  return (
    <div className={isSignedIn ? 'shell' : 'shell signed-out'}>
      <a className="skip" href="#main">
        {t('skip')}
      </a>
      <header className="top">
        {isSignedIn ? (
          <button
            type="button"
            className="button quiet menu-button"
            aria-expanded={isMenuOpen}
            aria-controls="sections"
            onClick={() => setMenuOpen(!isMenuOpen)}
          >
            <SectionIcon name="menu" />
            <span>{t('menu')}</span>
          </button>
        ) : null}
        <Link href="/" className="brand">
          <svg className="brand-mark" viewBox="0 0 32 32" width="24" height="24" aria-hidden="true" focusable="false">
            <rect width="32" height="32" rx="7" />
            <path d="M8 11h16M8 16h11M8 21h6" />
          </svg>
          <span>sendbatch</span>
        </Link>
        <DisplayMenu />
      </header>
      {isSignedIn ? (
        <nav id="sections" className={isMenuOpen ? 'sections open' : 'sections'} aria-label={t('navigation')}>
          <ul>
            {sections
              .filter(({ scope }) => hasScope(current, scope))
              .map(({ name, path: href }) => (
                <li key={name}>
                  <Link href={href} aria-current={isWithin(path, href) ? 'page' : undefined}>
                    <SectionIcon name={name} />
                    {t(`sections.${name}`)}
                  </Link>
                </li>
              ))}
          </ul>
        </nav>
      ) : null}
      <main id="main" tabIndex={-1}>
        <Content current={current} />
      </main>
    </div>
  );
}

function Content({ current }: { readonly current: Session }) {
  const t = useTexts(shellTexts);
  const [path] = useLocation();
  switch (current.state) {
    case 'opening':
      return <Loading label={t('connecting')} />;
    case 'unreachable':
      return <ErrorNotice title={t('unreachableTitle')} error={current.error} onRetry={() => void session.open()} />;
    case 'signedOut':
      return <SignIn wasSignedIn={current.error !== undefined} />;
    case 'signedIn':
      return (
        <Crash key={path}>
          <Switch>
            {pages.map(({ route, section, load }) => (
              <Route key={route} path={route}>
                {hasScope(current, section.scope) ? (
                  <LazyPage key={route} load={load} />
                ) : (
                  <NoAccess section={section} current={current} />
                )}
              </Route>
            ))}
            <Route>
              <NotFound />
            </Route>
          </Switch>
        </Crash>
      );
  }
}

/** Shown instead of a page that the caller's scopes do not open. The start leads on to one that they do. */
function NoAccess({ section, current }: { readonly section: Section; readonly current: Session }) {
  const t = useTexts(shellTexts);
  const other = sections.find(({ scope }) => hasScope(current, scope));
  if (section.path === '/' && other !== undefined) return <Redirect to={other.path} replace />;
  return (
    <Page title={t(`sections.${section.name}`)}>
      <Empty title={t('noAccess', { scope: scopeName(t, section.scope) })}>
        <p>{t('noAccessText')}</p>
        {current.state === 'signedIn' && current.hasCredential ? (
          <button type="button" className="button" onClick={session.signOut}>
            {t('otherKey')}
          </button>
        ) : null}
      </Empty>
    </Page>
  );
}

function isWithin(path: string, section: string): boolean {
  return path === section || (section !== '/' && path.startsWith(`${section}/`));
}
