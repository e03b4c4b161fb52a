import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import type { Identify } from '../auth/identity.ts';
import { ServiceError } from '../messages/service-error.ts';
import { toConnectError, toHttp } from '../rpc/error-mapping.ts';
import type { RequestContext, Response, Taker } from '../rpc/request-context.ts';
import { acceptsCoding } from './content-coding.ts';

export interface MetricsParts {
  /** Renders all metrics in Prometheus' text format. */
  readonly metrics: () => Promise<string>;
  /** Unset: no credential is required. */
  readonly identify: Identify | undefined;
  /** Called when the metrics cannot be read, except for refusals. */
  readonly onError: (error: unknown) => void;
}

export const metricsPath = '/metrics';
const compress = promisify(gzip);

/**
 * Serves `GET /metrics`. Where credentials are required, it needs the scope `metrics` or `admin`,
 * so that a scraper's key reads no messages.
 */
export function createMetricsEndpoint({ metrics, identify, onError }: MetricsParts): Taker {
  async function answer(context: RequestContext, response: Response): Promise<void> {
    const { request } = context;
    try {
      if (identify !== undefined) await assertMayRead(context, identify);
      const text = await metrics();
      const usesGzip = acceptsCoding(request, 'gzip');
      const body = usesGzip ? await compress(text) : Buffer.from(text);
      response.writeHead(200, {
        'content-type': 'text/plain; version=0.0.4; charset=utf-8',
        'cache-control': 'no-store',
        ...(usesGzip ? { 'content-encoding': 'gzip' } : {}),
        'content-length': body.length,
      });
      if (request.method === 'HEAD') response.end();
      else response.end(body);
    } catch (error) {
      if (!(error instanceof ServiceError)) onError(error);
      if (response.headersSent) return void response.destroy();
      const failure = toConnectError(error);
      const { status, body } = toHttp(failure);
      for (const [name, value] of failure.metadata) response.setHeader(name, value);
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(JSON.stringify(body));
    }
  }

  return (context, response) => {
    const { request } = context;
    if ((request.url ?? '').split('?', 1)[0] !== metricsPath || (request.method !== 'GET' && request.method !== 'HEAD'))
      return undefined;
    return answer(context, response);
  };
}

async function assertMayRead({ header, certificate }: RequestContext, identify: Identify): Promise<void> {
  const { scopes } = await identify(header, certificate);
  if (scopes.has('metrics') || scopes.has('admin')) return;
  throw new ServiceError({
    reason: 'SCOPE_MISSING',
    message: `/metrics needs the scope metrics or admin; this credential has ${[...scopes].join(', ') || 'none'}`,
    metadata: { scope: 'metrics' },
  });
}
