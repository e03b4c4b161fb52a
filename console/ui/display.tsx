import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type { ReactNode } from 'react';
import { Link, useRoute } from 'wouter';
import { msOf, useFormat } from '../i18n/use-format.ts';
import type { Tone } from './tone.ts';

export type { Tone };

/** A state in one word. The words say it; the colour repeats it. */
export function Badge({ tone = 'neutral', children }: { readonly tone?: Tone; readonly children: ReactNode }) {
  return <span className={`badge ${tone}`}>{children}</span>;
}

/** A time in the user's zone; the exact one on hover. `–` when there is none. */
export function Time({ value }: { readonly value: Timestamp | Date | undefined }) {
  const format = useFormat();
  if (value === undefined) return <span className="muted">–</span>;
  return (
    <time dateTime={new Date(msOf(value)).toISOString()} title={format.exactTime(value)}>
      {format.time(value)}
    </time>
  );
}

/** A share from 0 to 1. */
export function Progress({ label, share }: { readonly label: string; readonly share: number }) {
  const format = useFormat();
  return (
    <progress aria-label={label} max={1} value={share}>
      {format.percent(share)}
    </progress>
  );
}

/** Terms and their values, such as the properties of a batch. */
export function Facts({ items }: { readonly items: readonly (readonly [term: string, value: ReactNode])[] }) {
  return (
    <dl className="facts">
      {items.map(([term, value]) => (
        <div key={term}>
          <dt>{term}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

export interface TabLink {
  readonly label: ReactNode;
  /** A path of the console: each tab has an address. */
  readonly href: string;
}

/** Tabs whose contents are pages of their own. */
export function TabLinks({ label, tabs }: { readonly label: string; readonly tabs: readonly TabLink[] }) {
  return (
    <nav className="tabs" aria-label={label}>
      {tabs.map((tab) => (
        <Tab key={tab.href} {...tab} />
      ))}
    </nav>
  );
}

function Tab({ label, href }: TabLink) {
  const [isCurrent] = useRoute(href);
  return (
    <Link href={href} aria-current={isCurrent ? 'page' : undefined}>
      {label}
    </Link>
  );
}

/** Scrolls sideways by itself where a table is wider than the screen; reachable by keyboard. */
export function TableScroll({ label, children }: { readonly label: string; readonly children: ReactNode }) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: a region that scrolls has to be reachable by keyboard (WCAG 2.1.1).
    <section className="table-scroll" aria-label={label} tabIndex={0}>
      {children}
    </section>
  );
}
