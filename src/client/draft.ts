import type { MessageInitShape, MessageShape } from '@bufbuild/protobuf';
import type { MessageDraftSchema } from '../../gen/client/sendbatch/v1/message_pb.ts';
import type { SendResultSchema } from '../../gen/client/sendbatch/v1/message_service_pb.ts';

/** A message to send. Without a `clientMsgNo` it gets one, which makes retries safe. */
export type Draft = MessageInitShape<typeof MessageDraftSchema>;
/** The result of a message: its numbers, or `error`. */
export type Result = MessageShape<typeof SendResultSchema>;
