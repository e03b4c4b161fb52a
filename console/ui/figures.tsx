import type { ReactNode } from 'react';

/** The main figures of a page, large. */
export function Figures({ children }: { readonly children: ReactNode }) {
  return <ul className="figures">{children}</ul>;
}

export interface FigureProps {
  readonly label: string;
  readonly value: ReactNode;
  /** It deserves a look. */
  readonly isBad?: boolean;
}

export function Figure({ label, value, isBad }: FigureProps) {
  return (
    <li>
      <span className="figure-label">{label}</span>
      <span className={isBad ? 'figure bad' : 'figure'}>{value}</span>
    </li>
  );
}
