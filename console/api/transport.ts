import { ConnectError, type Interceptor, type Transport } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-web';
import { serviceUrl } from '../shell/paths.ts';

export interface TransportOptions {
  /** The API key or token to send; undefined sends none. */
  readonly credential: () => string | undefined;
  /** The deadline of calls in ms. Unset for streams, which have none. */
  readonly timeoutMs?: number;
  /** Called with each error of a call, also of an open stream. */
  readonly onError?: (error: ConnectError) => void;
}

/** Calls the service as any browser client does: Connect with binary messages. */
export function createTransport({ credential, timeoutMs, onError }: TransportOptions): Transport {
  const withCredential: Interceptor = (next) => async (request) => {
    const secret = credential();
    if (secret !== undefined) request.header.set('authorization', `Bearer ${secret}`);
    try {
      const response = await next(request);
      return response.stream ? { ...response, message: watched(response.message, onError) } : response;
    } catch (error) {
      onError?.(ConnectError.from(error));
      throw error;
    }
  };
  return createConnectTransport({
    baseUrl: serviceUrl,
    useBinaryFormat: true,
    interceptors: [withCredential],
    ...(timeoutMs === undefined ? {} : { defaultTimeoutMs: timeoutMs }),
  });
}

async function* watched<T>(
  messages: AsyncIterable<T>,
  onError: TransportOptions['onError'],
): AsyncGenerator<T, void, undefined> {
  try {
    yield* messages;
  } catch (error) {
    onError?.(ConnectError.from(error));
    throw error;
  }
}
