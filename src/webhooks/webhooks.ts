// Webhooks: what callers manage. Delivery is in delivery.ts, its rules in webhook.ts.
//
//   stored ranges ──insertOutbox──> outbox ──routeOutbox──> queue ──takeDelivery──> lane ──> POST
//
// States of a webhook (paused: until `paused_until`):
//
//   active ──5 consecutive failures──> paused ──time over──> probing (one lane at a time)
//     ^                                   ^                     │ │
//     │                                   └──failure (longer)───┘ │
//     ├─────────────────────────success───────────────────────────┘
//     └──UpdateWebhook, WEBHOOK_URL set── disabled <──410, caller, WEBHOOK_URL unset── (any state)
//
// Invariants: the webhook of WEBHOOK_URL is named `settings`, and callers cannot change its fields;
// secrets never leave this folder except in the answers of create and rotate.

import { randomBytes, randomUUID } from 'node:crypto';
import { limits } from '../limits.ts';
import { invalidField, ServiceError } from '../messages/service-error.ts';
import { orBusy } from '../messages/store-busy.ts';
import type { Db } from '../postgres/schema.ts';
import { dayMs } from '../time.ts';
import { secretsOf, type WebhookBodies } from './delivery.ts';
import { type FailedDelivery, listFailed, redeliverParked, sweepWebhooks } from './lanes.sql.ts';
import { isSecret, type Poster, type PostResult } from './post.ts';
import { findUrlFault } from './public-address.ts';
import type { WebhookFormat } from './webhook.ts';
import {
  deleteWebhook,
  disableWebhook,
  findWebhook,
  hasWebhook,
  insertWebhook,
  listWebhooks,
  putSettingsWebhook,
  replaceSecret,
  type StoredWebhook,
  updateWebhook,
  type WebhookSpec,
  type WebhookStatus,
} from './webhooks.sql.ts';

export type { FailedDelivery, WebhookSpec };

/** A webhook as a caller sees it. */
export type Webhook = Omit<StoredWebhook, 'secret'> & WebhookStatus;

/** The webhook of WEBHOOK_URL. */
export interface SettingsWebhook {
  readonly url: string;
  /** Empty: its requests are not signed. */
  readonly secret: string;
  readonly format: WebhookFormat;
}

/** Management of webhooks. */
export interface Webhooks {
  /** Whether any webhook exists. Changes by other instances are seen within a second. */
  hasAny(): boolean;
  reload(): Promise<void>;
  /** An empty `secret` is generated. */
  create(spec: WebhookSpec, secret: string): Promise<{ webhook: Webhook; secret: string }>;
  get(name: string): Promise<Webhook>;
  list(): Promise<Webhook[]>;
  replace(spec: WebhookSpec): Promise<Webhook>;
  remove(name: string): Promise<void>;
  rotateSecret(name: string, secret: string): Promise<{ secret: string; previousUntil: number }>;
  test(name: string, signal?: AbortSignal): Promise<PostResult>;
  listFailed(name: string, after: number, limit: number): Promise<FailedDelivery[]>;
  redeliver(name: string, deliveryIds: readonly number[]): Promise<number>;
  /** Creates or updates the webhook of WEBHOOK_URL; without the setting disables it. */
  applySettings(settings: SettingsWebhook | undefined): Promise<void>;
  /** Deletes deliveries that were parked two weeks ago. */
  sweep(): Promise<void>;
}

export interface WebhooksParts {
  readonly db: Db;
  readonly poster: Poster;
  readonly bodies: WebhookBodies;
  readonly allowPrivate: boolean;
  /** Starts a delivery run, as there may be work. */
  readonly nudge: () => void;
  readonly now?: () => number;
}

/** The name of the webhook of WEBHOOK_URL. */
export const settingsName = 'settings';
/** Time during which the previous secret signs too, so that receivers can switch. */
const secretOverlapMs = dayMs;
/** Time for which parked deliveries can be redelivered. */
const parkedRetentionMs = 14 * dayMs;
/** Bytes of a generated secret; Standard Webhooks recommends 24 to 64. */
const secretBytes = 32;

export function createWebhooks({ db, poster, bodies, allowPrivate, nudge, now = Date.now }: WebhooksParts): Webhooks {
  let hasAnyWebhook = false;
  let creations = 0;
  const reload = async () => {
    const creationsBefore = creations;
    const found = await hasWebhook(db);
    // A read from before a creation must not undo it: messages would miss the outbox for a second.
    if (found || creations === creationsBefore) hasAnyWebhook = found;
  };
  const findExisting = async (name: string) => {
    const found = await findWebhook(db, name);
    if (found === undefined) throw webhookNotFound(name);
    return found;
  };
  const assertUrl = (url: string) => {
    const fault = findUrlFault(url, allowPrivate);
    if (fault !== undefined) throw invalidField('url', fault);
  };

  return {
    hasAny: () => hasAnyWebhook,
    reload: () => orBusy(reload),
    async create(spec, givenSecret) {
      assertNotSettings(spec.name);
      assertUrl(spec.url);
      const secret = chooseSecret(givenSecret);
      return await orBusy(async () => {
        const outcome = await insertWebhook(db, spec, secret);
        if (outcome === 'taken') throw webhookExists(spec.name);
        if (outcome === 'full')
          throw invalidField(
            'name',
            `cannot be added: ${limits.webhooks} webhooks exist, the maximum; delete one first`,
            {
              limit: String(limits.webhooks),
            },
          );
        creations++;
        hasAnyWebhook = true;
        return { webhook: withoutSecret(await findExisting(spec.name)), secret };
      });
    },
    get: (name) => orBusy(async () => withoutSecret(await findExisting(name))),
    list: () => orBusy(async () => (await listWebhooks(db)).map(withoutSecret)),
    async replace(spec) {
      assertNotSettings(spec.name);
      assertUrl(spec.url);
      return await orBusy(async () => {
        if (!(await updateWebhook(db, spec))) throw webhookNotFound(spec.name);
        nudge();
        return withoutSecret(await findExisting(spec.name));
      });
    },
    remove: (name) =>
      orBusy(async () => {
        if (!(await deleteWebhook(db, name))) throw webhookNotFound(name);
        await reload();
      }),
    async rotateSecret(name, givenSecret) {
      assertNotSettings(name);
      const secret = chooseSecret(givenSecret);
      const previousUntil = await orBusy(() => replaceSecret(db, name, secret, secretOverlapMs));
      if (previousUntil === undefined) throw webhookNotFound(name);
      return { secret, previousUntil };
    },
    async test(name, signal = new AbortController().signal) {
      const webhook = await orBusy(() => findExisting(name));
      const { url, format } = webhook;
      const id = `msg_${randomUUID().replaceAll('-', '')}`;
      const body = bodies.test(format, new Date(now()));
      return await poster.post({ url, format, secrets: secretsOf(webhook), id, body }, signal);
    },
    listFailed: (name, after, limit) =>
      orBusy(async () => await listFailed(db, (await findExisting(name)).webhookKey, after, limit)),
    redeliver: (name, deliveryIds) =>
      orBusy(async () => {
        const queued = await redeliverParked(db, (await findExisting(name)).webhookKey, deliveryIds);
        nudge();
        return queued;
      }),
    async applySettings(settings) {
      if (settings === undefined) await disableWebhook(db, settingsName, 'setting');
      else {
        const { url, format, secret } = settings;
        const spec = { name: settingsName, url, format, batchSize: limits.webhookMessages };
        await putSettingsWebhook(db, spec, secret, secretOverlapMs);
      }
      await reload();
    },
    sweep: () => sweepWebhooks(db, parkedRetentionMs),
  };
}

/** The given secret after a check, or a generated one. */
function chooseSecret(given: string): string {
  if (given !== '' && !isSecret(given))
    throw invalidField('secret', 'must be whsec_ and 24 to 64 bytes in base64, or empty to have one generated');
  return given || `whsec_${randomBytes(secretBytes).toString('base64')}`;
}

function withoutSecret({ secret: _secret, ...webhook }: StoredWebhook & WebhookStatus): Webhook {
  return webhook;
}

function assertNotSettings(name: string): void {
  if (name === settingsName)
    throw invalidField(
      'name',
      `must not be ${settingsName}, the webhook of WEBHOOK_URL; change that setting, or use another name`,
    );
}

function webhookNotFound(name: string): ServiceError {
  return new ServiceError({
    reason: 'WEBHOOK_NOT_FOUND',
    message: `webhook ${JSON.stringify(name)} does not exist`,
    metadata: { name },
  });
}

function webhookExists(name: string): ServiceError {
  return new ServiceError({
    reason: 'WEBHOOK_EXISTS',
    message: `webhook ${JSON.stringify(name)} already exists; change it with UpdateWebhook, or use another name`,
    metadata: { name },
  });
}
