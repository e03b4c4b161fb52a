import type { DescMessage, Message } from '@bufbuild/protobuf';
import { create, isMessage } from '@bufbuild/protobuf';
import { type Compression, compressedFlag, encodeEnvelope, type Serialization } from '@connectrpc/connect/protocol';

/** Encodes a message as an envelope. Returns the same bytes for the same object. */
export type EncodeOnce = (message: Message, isJson: boolean, isGzip: boolean) => Uint8Array | Promise<Uint8Array>;

export interface EncodeOnceOptions {
  readonly serialization: (useBinary: boolean) => Serialization<Message>;
  readonly compression: Compression;
  /** Smaller messages are not compressed. */
  readonly compressMinBytes: number;
}

/**
 * A message to 500 readers is one object (tailing/tails.ts shares pages), and encoding it was a
 * third of the CPU of each delivery. Encodings live as long as their message.
 */
export function createEncodeOnce(
  output: DescMessage,
  { serialization, compression, compressMinBytes }: EncodeOnceOptions,
): EncodeOnce {
  const forms = Array.from({ length: 4 }, () => new WeakMap<Message, Uint8Array | Promise<Uint8Array>>());

  function encode(message: Message, isJson: boolean, isGzip: boolean): Uint8Array | Promise<Uint8Array> {
    const whole = isMessage(message, output) ? message : create(output, message);
    const bytes = serialization(!isJson).serialize(whole);
    if (!isGzip || bytes.length < compressMinBytes) return encodeEnvelope(0, bytes);
    return compression.compress(bytes).then((data) => encodeEnvelope(compressedFlag, data));
  }

  return (message, isJson, isGzip) => {
    const known = forms[(isJson ? 1 : 0) + (isGzip ? 2 : 0)] as (typeof forms)[0];
    let encoded = known.get(message);
    if (encoded === undefined) {
      encoded = encode(message, isJson, isGzip);
      known.set(message, encoded);
    }
    return encoded;
  };
}
