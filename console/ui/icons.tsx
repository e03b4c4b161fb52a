import type { ReactNode } from 'react';

function Icon({ children }: { readonly children: ReactNode }) {
  return (
    <svg
      className="icon"
      viewBox="0 0 20 20"
      width="18"
      height="18"
      fill="none"
      stroke="currentColor"
      strokeWidth="1.6"
      strokeLinecap="round"
      strokeLinejoin="round"
      aria-hidden="true"
      focusable="false"
    >
      {children}
    </svg>
  );
}

const paths = {
  overview: 'M3 13.5 7 9l3 3 6.5-7M3 17h14',
  compose: 'M3 17h4l9.5-9.5-4-4L3 13v4ZM11 5l4 4',
  batches: 'm10 3 7 3.5-7 3.5-7-3.5L10 3ZM3 10l7 3.5 7-3.5M3 13.5l7 3.5 7-3.5',
  channels: 'M4 4h12a1 1 0 0 1 1 1v7a1 1 0 0 1-1 1H9l-4 3.5V13H4a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1Z',
  moderation: 'M10 2.5 16.5 5v4.5c0 4-2.7 6.6-6.5 8-3.8-1.4-6.5-4-6.5-8V5L10 2.5ZM7.3 9.8l2 2 3.5-3.8',
  templates: 'M5 2.5h7L16 7v10.5H5v-15ZM12 2.5V7h4M8 11h5M8 14h5',
  webhooks: 'M7.5 12.5 10 8a3 3 0 1 1 2.6.4M10 8l2.8 4.7a3 3 0 1 1-1 3.1M4.5 11.2a3 3 0 1 0 3.5 3.3h5',
  keys: 'M11.5 8.5a3.5 3.5 0 1 1 0 .1L3 17v-3M6 14l2 2',
  settings: 'M3 6h8M15 6h2M3 14h2M9 14h8M11 4.2v3.6h4V4.2h-4ZM5 12.2v3.6h4v-3.6H5Z',
  menu: 'M3 5h14M3 10h14M3 15h14',
  account: 'M10 10a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7ZM3.5 17.5c.7-3.2 3.3-5 6.5-5s5.8 1.8 6.5 5',
} as const;

export type IconName = keyof typeof paths;

/** A decoration beside a word, never alone. */
export function SectionIcon({ name }: { readonly name: IconName }) {
  return (
    <Icon>
      <path d={paths[name]} />
    </Icon>
  );
}
