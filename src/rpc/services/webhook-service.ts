import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { ServiceImpl } from '@connectrpc/connect';
import type { ChannelType } from '../../../gen/sendbatch/v1/message_pb.ts';
import {
  type CreateWebhookRequest,
  type UpdateWebhookRequest,
  type WebhookDeliverySchema,
  WebhookDeliveryState,
  WebhookDisabledReason,
  WebhookFormat,
  type WebhookSchema,
  type WebhookService,
} from '../../../gen/sendbatch/v1/webhook_service_pb.ts';
import { limits } from '../../limits.ts';
import { pageOf } from '../../messages/page.ts';
import type { FailedDelivery, Webhook, WebhookSpec, Webhooks } from '../../webhooks/webhooks.ts';
import { changeKindOf } from '../message-mapping.ts';
import { parsePageToken } from '../page-token.ts';

/** What WebhookService needs. */
export interface WebhookServiceParts {
  readonly webhooks: Webhooks;
}

/** Implements sendbatch.v1.WebhookService: each RPC converts between the proto and a use case. */
export function createWebhookService({ webhooks }: WebhookServiceParts): ServiceImpl<typeof WebhookService> {
  return {
    async createWebhook(request) {
      const { webhook, secret } = await webhooks.create(toWish(request), request.secret);
      return { webhook: toMessage(webhook), secret };
    },
    getWebhook: async ({ name }) => ({ webhook: toMessage(await webhooks.get(name)) }),
    listWebhooks: async () => ({ webhooks: (await webhooks.list()).map(toMessage) }),
    updateWebhook: async (request) => ({ webhook: toMessage(await webhooks.replace(toWish(request))) }),
    async deleteWebhook({ name }) {
      await webhooks.remove(name);
      return {};
    },
    async rotateWebhookSecret({ name, secret: wished }) {
      const { secret, previousUntil } = await webhooks.rotateSecret(name, wished);
      return { secret, previousSecretUntil: timestampFromMs(previousUntil) };
    },
    async testWebhook({ name }, { signal }) {
      const { verdict, status, error, ms } = await webhooks.test(name, signal);
      return { delivered: verdict === 'done', status, error, durationMs: Math.round(ms) };
    },
    async listWebhookDeliveries({ name, pageSize, pageToken }) {
      const limit = pageSize || limits.pageMessagesDefault;
      const [after = 0] = parsePageToken(pageToken);
      const { page, last } = pageOf(await webhooks.listFailed(name, after, limit + 1), limit);
      return {
        deliveries: page.map(toDelivery),
        nextPageToken: last === undefined ? '' : String(last.deliveryId),
      };
    },
    redeliverWebhook: async ({ name, deliveryIds }) => ({
      queued: await webhooks.redeliver(name, deliveryIds.map(Number)),
    }),
  };
}

function toWish(request: CreateWebhookRequest | UpdateWebhookRequest): WebhookSpec {
  const { name, url, format, channelTypes, disabled, batchSize, maxWaitMs } = request;
  return {
    name,
    url,
    format: format === WebhookFormat.LEGACY ? 'legacy' : 'standard',
    channelTypes,
    disabled,
    batchSize: batchSize || limits.webhookMessages,
    maxWaitMs,
  };
}

const disabledReasons = {
  caller: WebhookDisabledReason.CALLER,
  gone: WebhookDisabledReason.GONE,
  setting: WebhookDisabledReason.SETTING,
};

function toMessage(webhook: Webhook): MessageInitShape<typeof WebhookSchema> {
  const { disabledBy, previous, oldest } = webhook;
  return {
    name: webhook.name,
    url: webhook.url,
    format: webhook.format === 'legacy' ? WebhookFormat.LEGACY : WebhookFormat.STANDARD,
    channelTypes: webhook.channelTypes.map((type) => type as ChannelType),
    disabled: disabledBy !== undefined,
    ...(disabledBy === undefined ? {} : { disabledReason: disabledReasons[disabledBy] }),
    batchSize: webhook.batchSize,
    maxWaitMs: webhook.maxWaitMs,
    createdAt: timestampFromMs(webhook.createdAt),
    updatedAt: timestampFromMs(webhook.updatedAt),
    ...(previous === undefined ? {} : { previousSecretUntil: timestampFromMs(previous.until) }),
    failures: webhook.failures,
    queuedMessages: BigInt(webhook.queued),
    ...(oldest === undefined ? {} : { oldestQueuedAt: timestampFromMs(oldest) }),
    parkedDeliveries: webhook.parked,
  };
}

const states = {
  retrying: WebhookDeliveryState.RETRYING,
  parked: WebhookDeliveryState.PARKED,
  queued: WebhookDeliveryState.QUEUED,
};

function toDelivery(failed: FailedDelivery): MessageInitShape<typeof WebhookDeliverySchema> {
  const { nextAt, parkedAt } = failed;
  return {
    deliveryId: BigInt(failed.deliveryId),
    webhookId: failed.id,
    state: states[failed.state],
    ranges: failed.ranges.map(({ channelType, channelId, firstSeq, lastSeq }) => ({
      channelType: channelType as ChannelType,
      channelId,
      firstSeq: BigInt(firstSeq),
      lastSeq: BigInt(lastSeq),
    })),
    ...(failed.kind === 'stored' ? {} : { changeKind: changeKindOf(failed.kind) }),
    attempts: failed.attempts,
    lastStatus: failed.failure.status,
    lastError: failed.failure.error,
    createdAt: timestampFromMs(failed.createdAt),
    ...(nextAt === undefined ? {} : { nextAttemptAt: timestampFromMs(nextAt) }),
    ...(parkedAt === undefined ? {} : { parkedAt: timestampFromMs(parkedAt) }),
  };
}
