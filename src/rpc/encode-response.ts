import { type DescMessage, type Message, toBinary } from '@bufbuild/protobuf';
import { PageResponse } from './page-response.ts';
import { StoredResponse } from './plain-batch/index.ts';

/**
 * Encodes the response of any method in Protobuf, behind `room` free bytes for a head. A copy of
 * each page for its head is memory that is freed by major collections.
 */
export function encodeResponse(desc: DescMessage, response: Message, room = 0): Buffer {
  if (response instanceof StoredResponse || response instanceof PageResponse) return response.toProtobuf(room);
  const message = toBinary(desc, response);
  const bytes = Buffer.allocUnsafe(room + message.length);
  bytes.set(message, room);
  return bytes;
}
