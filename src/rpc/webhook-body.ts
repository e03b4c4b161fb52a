import { create } from '@bufbuild/protobuf';
import { MessageSchema } from '../../gen/sendbatch/v1/message_pb.ts';
import { LegacyMessageSchema, MessageChangedSchema } from '../../gen/sendbatch/v1/message_service_pb.ts';
import { createJsonWriter } from '../transcode/index.ts';
import type { WebhookBodies } from '../webhooks/delivery.ts';
import { changeKindOf, toLegacyMessage, toMessage } from './message-mapping.ts';

/** Renders webhook bodies. Messages look as on the JSON routes, so one parser reads both. */
export function createWebhookBodies(): WebhookBodies {
  const write = createJsonWriter();
  const envelope = (type: string, at: Date, data: string) =>
    `{"type":${JSON.stringify(type)},"timestamp":"${at.toISOString()}","data":${data}}`;
  return {
    events(format, kind, messages, at) {
      if (kind !== 'stored') {
        const list = messages.map(({ changeNo = 0, ...each }) => {
          const changed = { changeNo: BigInt(changeNo), kind: changeKindOf(kind), message: toMessage(each, each) };
          return write(MessageChangedSchema, create(MessageChangedSchema, changed));
        });
        return envelope(`message.${kind}`, at, `{"changes":[${list.join(',')}]}`);
      }
      if (format === 'standard') {
        const list = messages.map((each) => write(MessageSchema, create(MessageSchema, toMessage(each, each))));
        return envelope('message.stored', at, `{"messages":[${list.join(',')}]}`);
      }
      // Legacy receivers derive a person channel from from_uid and channel_id, which is the
      // receiver here.
      const list = messages.map((each) =>
        write(LegacyMessageSchema, create(LegacyMessageSchema, toLegacyMessage(each, each, each.fromUid))),
      );
      return `[${list.join(',')}]`;
    },
    test: (format, at) => (format === 'standard' ? envelope('webhook.test', at, '{}') : '[]'),
  };
}
