import { ConnectError, type Interceptor, type Transport } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-web';
import { serviceUrl } from '../shell/paths.ts';

export interface TransportOptions {
  /** The API key or token to send; undefined sends none. */
  readonly credential: () => string | undefined;
  /** The deadline of calls in ms. Unset for streams, which have none. */
  readonly timeoutMs?: number;
  /** Called with each error of a call, also of an open stream, and the credential that it had. */
  readonly onError?: (error: ConnectError, credential: string | undefined) => void;
}

/** Calls the service as any browser client does: Connect with binary messages. */
export function createTransport({ credential, timeoutMs, onError }: TransportOptions): Transport {
  const withCredential: Interceptor = (next) => async (request) => {
    const secret = credential();
    const report = (error: unknown) => onError?.(ConnectError.from(error), secret);
    if (secret !== undefined) request.header.set('authorization', `Bearer ${secret}`);
    try {
      const response = await next(request);
      return response.stream ? { ...response, message: watched(response.message, report) } : response;
    } catch (error) {
      report(error);
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
  report: (error: unknown) => void,
): AsyncGenerator<T, void, undefined> {
  try {
    yield* messages;
  } catch (error) {
    report(error);
    throw error;
  }
}
