import type { DescMessage } from '@bufbuild/protobuf';
import type { UniversalHandlerOptions } from '@connectrpc/connect/protocol';
import { detailRegistry } from '../rpc/error-mapping.ts';
import { mapTranscodeError } from '../rpc/legacy.ts';
import { TranscodeError, type Transcoder } from '../transcode/index.ts';

const utf8 = new TextDecoder();

/**
 * JSON options for Connect where request-body.ts reads no body: the message in the URL of a GET.
 * protobuf-es replaces invalid UTF-8 by U+FFFD, turns February 29 into March 1, rounds numbers,
 * keeps the last of two equal keys, and names no path; so the JSON routes' reader checks the
 * message first.
 */
export function jsonOptionsOf(
  input: DescMessage,
  check: Transcoder['check'],
): NonNullable<UniversalHandlerOptions['jsonOptions']> {
  const options = {
    // Unknown fields are refused, not dropped: ignoring a `send_at` would send the message now.
    ignoreUnknownFields: false,
    registry: detailRegistry,
    textDecoder: {
      decode(bytes: Uint8Array = new Uint8Array()): string {
        try {
          check(input, bytes);
        } catch (error) {
          throw error instanceof TranscodeError ? mapTranscodeError(error).mapped : error;
        }
        return utf8.decode(bytes);
      },
    },
  };
  return options;
}
