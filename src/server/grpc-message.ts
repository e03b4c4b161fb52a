import type { ConnectError } from '@connectrpc/connect';
import { setTrailerStatus } from '@connectrpc/connect/protocol-grpc';

/**
 * Percent-encodes a status message by the gRPC over HTTP/2 spec: only `%` and bytes outside of 0x20
 * to 0x7E. Connect encodes it like a URL component, which grpc-js decodes only in part: callers
 * would read `messages%3A must have`.
 */
export function encodeGrpcMessage(message: string): string {
  return Buffer.from(message)
    .toString('latin1')
    .replace(/[^\x20-\x24\x26-\x7e]/g, (byte) => `%${byte.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`);
}

/** Sets the trailers of an error: status, message and details. */
export function setGrpcStatus(trailers: Headers, error: ConnectError): void {
  setTrailerStatus(trailers, error);
  trailers.set('grpc-message', encodeGrpcMessage(error.rawMessage));
}
