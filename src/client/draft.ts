import type { MessageInitShape, MessageShape } from '@bufbuild/protobuf';
import type { MessageDraftSchema } from '../../gen/client/sendbatch/v1/message_pb.ts';
import type { SendResultSchema } from '../../gen/client/sendbatch/v1/message_service_pb.ts';

/** A message to send. Without `clientMsgNo` it gets one, so that a retry is exact. */
export type Draft = MessageInitShape<typeof MessageDraftSchema>;
/** What became of a message: its numbers, or `error`. */
export type Result = MessageShape<typeof SendResultSchema>;
