import type { DescMessage } from '@bufbuild/protobuf';
import type { UniversalHandlerOptions } from '@connectrpc/connect/protocol';
import { detailRegistry } from '../rpc/error-mapping.ts';
import { ofTranscoder } from '../rpc/legacy.ts';
import { TranscodeError, type Transcoder } from '../transcode/index.ts';

const utf8 = new TextDecoder();

/**
 * How Connect reads a method's request in JSON where no body is read for it (own-body.ts): the message in the URL of a GET. protobuf-es puts U+FFFD for what is not UTF-8,
 * makes March 1 of February 29, rounds numbers, keeps the last of two equal keys, and names no path: the reader of the JSON routes goes before it.
 */
export function jsonOptionsOf(
  input: DescMessage,
  check: Transcoder['check'],
): NonNullable<UniversalHandlerOptions['jsonOptions']> {
  const options = {
    // A field that this version does not know is refused, not dropped: a `send_at` that is ignored is a message sent now.
    ignoreUnknownFields: false,
    registry: detailRegistry,
    textDecoder: {
      decode(bytes: Uint8Array = new Uint8Array()): string {
        try {
          check(input, bytes);
        } catch (error) {
          throw error instanceof TranscodeError ? ofTranscoder(error).mapped : error;
        }
        return utf8.decode(bytes);
      },
    },
  };
  return options;
}
