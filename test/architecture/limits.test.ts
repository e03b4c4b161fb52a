import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type DescField, type DescMessage, getOption } from '@bufbuild/protobuf';
import { field as fieldRules } from '@bufbuild/protovalidate/gen/buf/validate/validate_pb.js';
import {
  BatchOptionsSchema,
  SubmitBatchRequestSchema,
  SubmitBatchStreamRequestSchema,
} from '../../gen/sendbatch/v1/batch_service_pb.ts';
import { MessageDraftSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import {
  BroadcastRequestSchema,
  ListMessagesRequestSchema,
  SendBatchRequestSchema,
  SendRequestSchema,
} from '../../gen/sendbatch/v1/message_service_pb.ts';
import { CreateWebhookRequestSchema, UpdateWebhookRequestSchema } from '../../gen/sendbatch/v1/webhook_service_pb.ts';
import { limits } from '../../src/limits.ts';

const rulesOf = (schema: DescMessage, name: string) => {
  const field: DescField | undefined = schema.fields.find((each) => each.name === name);
  assert.ok(field, `${schema.typeName} has no ${name}`);
  return getOption(field, fieldRules).type.value as {
    maxItems?: bigint;
    maxBytes?: bigint;
    maxLen?: bigint;
    lte?: number;
    lessThan?: { value: number };
  };
};

describe('the rules in the proto equal the limits of the code', () => {
  const rows: [DescMessage, string, number][] = [
    [SendBatchRequestSchema, 'messages', limits.batchMessages],
    [SendBatchRequestSchema, 'expected_last_seqs', limits.batchChannels],
    [SendBatchRequestSchema, 'request_id', limits.requestIdBytes],
    [SendRequestSchema, 'request_id', limits.requestIdBytes],
    [BroadcastRequestSchema, 'request_id', limits.requestIdBytes],
    [BroadcastRequestSchema, 'subscribers', limits.broadcastSubscribers],
    [BroadcastRequestSchema, 'payload', limits.payloadBytes],
    [BroadcastRequestSchema, 'from_uid', limits.idBytes],
    [MessageDraftSchema, 'payload', limits.payloadBytes],
    [MessageDraftSchema, 'subscribers', limits.messageSubscribers],
    [MessageDraftSchema, 'from_uid', limits.idBytes],
    [MessageDraftSchema, 'channel_id', limits.idBytes],
    [MessageDraftSchema, 'client_msg_no', limits.clientMsgNoBytes],
    [ListMessagesRequestSchema, 'limit', limits.pageMessages],
    [SubmitBatchRequestSchema, 'messages', limits.submitMessages],
    [SubmitBatchRequestSchema, 'request_id', limits.requestIdBytes],
    [BatchOptionsSchema, 'request_id', limits.requestIdBytes],
    [SubmitBatchStreamRequestSchema, 'messages', limits.submitFrame],
    [CreateWebhookRequestSchema, 'batch_size', limits.webhookMessages],
    [UpdateWebhookRequestSchema, 'batch_size', limits.webhookMessages],
  ];
  for (const [schema, name, limit] of rows) {
    test(`the rule of ${schema.name}.${name} equals the limit: ${limit}`, () => {
      const rules = rulesOf(schema, name);
      const bound = rules.maxItems ?? rules.maxBytes ?? rules.maxLen ?? rules.lessThan?.value;
      assert.equal(Number(bound), limit);
    });
  }
});
