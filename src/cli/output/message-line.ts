import { toJsonString } from '@bufbuild/protobuf';
import { type Message, MessageSchema, MessageState } from '../../../gen/sendbatch/v1/message_pb.ts';
import { paint, plain, printable, safeJson } from './output.ts';

/** A message in one line: tab-separated, or JSON. */
export function messageLine(message: Message, json: boolean): string {
  if (json) return safeJson(toJsonString(MessageSchema, message));
  const { messageSeq, fromUid, payload, state } = message;
  const mark =
    state === undefined ? '' : `\t${paint('yellow', state === MessageState.RECALLED ? 'recalled' : 'edited')}`;
  return `${paint('dim', String(messageSeq))}\t${paint('cyan', plain(fromUid))}\t${printable(payload)}${mark}`;
}
