import { toJsonString } from '@bufbuild/protobuf';
import { type Message, MessageSchema } from '../../../gen/sendbatch/v1/message_pb.ts';
import { paint, plain, printable, safeJson } from './output.ts';

/** A message in one line: tab-separated, or JSON. */
export function messageLine(message: Message, json: boolean): string {
  if (json) return safeJson(toJsonString(MessageSchema, message));
  const { messageSeq, fromUid, payload } = message;
  return `${paint('dim', String(messageSeq))}\t${paint('cyan', plain(fromUid))}\t${printable(payload)}`;
}
