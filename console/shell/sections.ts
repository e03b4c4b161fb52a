import type { ComponentType } from 'react';
import type { Scope } from '../api/session.ts';
import type { IconName } from '../ui/icons.tsx';

export type LoadPage = () => Promise<{ readonly default: ComponentType }>;

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
  {
    name: 'moderation',
    path: '/moderation',
    scope: 'admin',
    pages: {
      '/moderation': () => import('../moderation/queue-page.tsx'),
      '/moderation/rules': () => import('../moderation/rules-page.tsx'),
      '/moderation/test': () => import('../moderation/test-page.tsx'),
    },
  },
  {
    name: 'templates',
    path: '/templates',
    scope: 'admin',
    pages: {
      '/templates': () => import('../templates/templates-page.tsx'),
      '/templates/:name': () => import('../templates/template-page.tsx'),
    },
  },
  {
    name: 'webhooks',
    path: '/webhooks',
    scope: 'admin',
    pages: {
      '/webhooks': () => import('../webhooks/webhooks-page.tsx'),
      '/webhooks/:name': () => import('../webhooks/webhook-page.tsx'),
    },
  },
  {
    name: 'keys',
    path: '/keys',
    scope: 'admin',
    pages: { '/keys': () => import('../keys/keys-page.tsx') },
  },
  {
    name: 'settings',
    path: '/settings',
    scope: 'admin',
    pages: {
      '/settings': () => import('../settings/settings-page.tsx'),
      '/settings/limits': () => import('../settings/limits-page.tsx'),
    },
  },
];
