import { type ReactNode, useEffect, useRef } from 'react';
import { useLocation } from 'wouter';
import { hasNavigated } from './navigation.ts';

export interface PageProps {
  /** The page's heading, and the title of the browser's tab. */
  readonly title: string;
  /** One sentence below the heading. */
  readonly lead?: ReactNode;
  /** Buttons beside the heading. */
  readonly actions?: ReactNode;
  readonly children: ReactNode;
}

/**
 * The frame of every page: title, heading and actions. After a navigation the heading gets the
 * focus, so that a screen reader says where the user is.
 */
export function Page({ title, lead, actions, children }: PageProps) {
  const heading = useRef<HTMLHeadingElement>(null);
  const [path] = useLocation();
  useEffect(() => {
    document.title = `${title} · sendbatch`;
  }, [title]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: another path is another page.
  useEffect(() => {
    if (!hasNavigated()) return;
    heading.current?.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }, [path]);
  return (
    <div className="page">
      <header className="page-header">
        <div>
          <h1 ref={heading} tabIndex={-1}>
            {title}
          </h1>
          {lead === undefined ? null : <p className="lead">{lead}</p>}
        </div>
        {actions === undefined ? null : <div className="actions">{actions}</div>}
      </header>
      {children}
    </div>
  );
}
