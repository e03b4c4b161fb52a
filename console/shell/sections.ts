import type { ComponentType } from 'react';
import type { Scope } from '../api/session.ts';
import type { IconName } from '../ui/icons.tsx';

type LoadPage = () => Promise<{ readonly default: ComponentType }>;

/** A section of the console: an entry of the navigation and its pages. */
export interface Section {
  /** The name of its label in shell/texts.ts, and of its icon. */
  readonly name: Exclude<IconName, 'menu' | 'account'>;
  readonly path: string;
  /** The scope that its calls need; a caller without it does not see the section. */
  readonly scope: Scope;
  /** Its pages by route (wouter patterns), each loaded when it is first opened. */
  readonly pages: Readonly<Record<string, LoadPage>>;
}

/** All sections, in the order of the navigation. */
export const sections: readonly Section[] = [
  {
    name: 'overview',
    path: '/',
    scope: 'admin',
    pages: { '/': () => import('../overview/overview-page.tsx') },
  },
  {
    name: 'compose',
    path: '/compose',
    scope: 'send',
    pages: { '/compose': () => import('../compose/compose-page.tsx') },
  },
  {
    name: 'batches',
    path: '/batches',
    scope: 'send',
    pages: {
      '/batches': () => import('../batches/batches-page.tsx'),
      '/batches/:batchId': () => import('../batches/batch-page.tsx'),
    },
  },
  {
    name: 'channels',
    path: '/channels',
    scope: 'read',
    pages: {
      '/channels': () => import('../channels/find-page.tsx'),
      '/channels/:channelType/:channelId/:part?': () => import('../channels/channel-page.tsx'),
    },
  },
];
