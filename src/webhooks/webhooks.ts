import { randomBytes, randomUUID } from 'node:crypto';
import { limits } from '../limits.ts';
import { invalidField, ServiceError } from '../messages/service-error.ts';
import { orBusy } from '../messages/store-busy.ts';
import type { Db } from '../postgres/schema.ts';
import { secretsOf, type WebhookBodies } from './delivery.ts';
import { type FailedDelivery, listFailed, redeliverParked, sweepWebhooks } from './lanes.sql.ts';
import { isSecret, type Posted, type Poster } from './post.ts';
import { urlFault } from './public-address.ts';
import type { WebhookFormat } from './webhook.ts';
import {
  anyWebhook,
  deleteWebhook,
  disableWebhook,
  findWebhook,
  insertWebhook,
  listWebhooks,
  putSettingsWebhook,
  replaceSecret,
  type StoredWebhook,
  updateWebhook,
  type WebhookStanding,
  type WebhookWish,
} from './webhooks.sql.ts';

export type { FailedDelivery, WebhookWish };

/** A webhook as a caller sees it. */
export type Webhook = Omit<StoredWebhook, 'secret'> & WebhookStanding;

/** The webhook of WEBHOOK_URL. */
export interface SettingsWebhook {
  readonly url: string;
  /** Empty: it does not sign. */
  readonly secret: string;
  readonly format: WebhookFormat;
}

/** The webhooks of a service. */
export interface Webhooks {
  /** Whether there is one, as far as this instance knows: others' changes are known after at most a second. */
  any(): boolean;
  reload(): Promise<void>;
  /** `secret` empty: one is made. */
  create(wish: WebhookWish, secret: string): Promise<{ webhook: Webhook; secret: string }>;
  get(name: string): Promise<Webhook>;
  list(): Promise<Webhook[]>;
  replace(wish: WebhookWish): Promise<Webhook>;
  remove(name: string): Promise<void>;
  rotate(name: string, secret: string): Promise<{ secret: string; previousUntil: number }>;
  test(name: string, signal?: AbortSignal): Promise<Posted>;
  failed(name: string, after: number, limit: number): Promise<FailedDelivery[]>;
  redeliver(name: string, deliveryIds: readonly number[]): Promise<number>;
  /** Makes the webhook of the settings what they say; without them it is disabled. */
  applySettings(settings: SettingsWebhook | undefined): Promise<void>;
  /** Removes what was parked long ago. */
  sweep(): Promise<void>;
}

export interface WebhooksParts {
  readonly db: Db;
  readonly poster: Poster;
  readonly bodies: WebhookBodies;
  readonly allowPrivate: boolean;
  /** There may be work. */
  readonly nudge: () => void;
  readonly now?: () => number;
}

/** The name of the webhook that the settings make. */
export const settingsName = 'settings';
/** How long the secret before signs too. */
const previousMs = 24 * 3600_000;
/** How long parked deliveries are kept. */
const parkedMs = 14 * 24 * 3600_000;

export function createWebhooks({ db, poster, bodies, allowPrivate, nudge, now = Date.now }: WebhooksParts): Webhooks {
  let known = false;
  const reload = async () => {
    known = await anyWebhook(db);
  };
  const stored = async (name: string) => {
    const found = await findWebhook(db, name);
    if (found === undefined) throw notThere(name);
    return found;
  };
  const assertUrl = (url: string) => {
    const fault = urlFault(url, allowPrivate);
    if (fault !== undefined) throw invalidField('url', fault);
  };
  const secretOf = (wished: string) => {
    if (wished !== '' && !isSecret(wished))
      throw invalidField('secret', 'must be whsec_ and 24 to 64 bytes in base64, or empty to have one generated');
    return wished || `whsec_${randomBytes(32).toString('base64')}`;
  };
  return {
    any: () => known,
    reload: () => orBusy(reload),
    async create(wish, wishedSecret) {
      assertOwn(wish.name);
      assertUrl(wish.url);
      const secret = secretOf(wishedSecret);
      return await orBusy(async () => {
        const end = await insertWebhook(db, wish, secret);
        if (end === 'taken') throw taken(wish.name);
        if (end === 'full')
          throw invalidField(
            'name',
            `cannot be added: ${limits.webhooks} webhooks exist, the maximum; delete one first`,
            {
              limit: String(limits.webhooks),
            },
          );
        known = true;
        return { webhook: withoutSecret(await stored(wish.name)), secret };
      });
    },
    get: (name) => orBusy(async () => withoutSecret(await stored(name))),
    list: () => orBusy(async () => (await listWebhooks(db)).map(withoutSecret)),
    async replace(wish) {
      assertOwn(wish.name);
      assertUrl(wish.url);
      return await orBusy(async () => {
        if (!(await updateWebhook(db, wish))) throw notThere(wish.name);
        nudge();
        return withoutSecret(await stored(wish.name));
      });
    },
    remove: (name) =>
      orBusy(async () => {
        if (!(await deleteWebhook(db, name))) throw notThere(name);
        await reload();
      }),
    async rotate(name, wishedSecret) {
      assertOwn(name);
      const secret = secretOf(wishedSecret);
      const previousUntil = await orBusy(() => replaceSecret(db, name, secret, previousMs));
      if (previousUntil === undefined) throw notThere(name);
      return { secret, previousUntil };
    },
    async test(name, signal = new AbortController().signal) {
      const webhook = await orBusy(() => stored(name));
      const { url, format } = webhook;
      const id = `msg_${randomUUID().replaceAll('-', '')}`;
      const body = bodies.test(format, new Date(now()));
      return await poster.post({ url, format, secrets: secretsOf(webhook), id, body }, signal);
    },
    failed: (name, after, limit) =>
      orBusy(async () => await listFailed(db, (await stored(name)).webhookKey, after, limit)),
    redeliver: (name, deliveryIds) =>
      orBusy(async () => {
        const queued = await redeliverParked(db, (await stored(name)).webhookKey, deliveryIds);
        nudge();
        return queued;
      }),
    async applySettings(settings) {
      if (settings === undefined) await disableWebhook(db, settingsName, 'setting');
      else {
        const { url, format, secret } = settings;
        const wish = { name: settingsName, url, format, batchSize: limits.webhookMessages };
        await putSettingsWebhook(db, wish, secret, previousMs);
      }
      await reload();
    },
    sweep: () => sweepWebhooks(db, parkedMs),
  };
}

function withoutSecret({ secret: _secret, ...webhook }: StoredWebhook & WebhookStanding): Webhook {
  return webhook;
}

function assertOwn(name: string): void {
  if (name === settingsName)
    throw invalidField(
      'name',
      `must not be ${settingsName}, the webhook of WEBHOOK_URL; change that setting, or use another name`,
    );
}

function notThere(name: string): ServiceError {
  return new ServiceError({
    reason: 'WEBHOOK_NOT_FOUND',
    message: `webhook ${JSON.stringify(name)} does not exist`,
    metadata: { name },
  });
}

function taken(name: string): ServiceError {
  return new ServiceError({
    reason: 'WEBHOOK_EXISTS',
    message: `webhook ${JSON.stringify(name)} already exists; change it with UpdateWebhook, or use another name`,
    metadata: { name },
  });
}
