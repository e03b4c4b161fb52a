import type { Readiness, Report } from '../postgres/readiness.ts';
import { toConnectError, toHttp } from '../rpc/error-mapping.ts';
import type { Request, Response } from '../rpc/request-context.ts';

/** The paths of load balancers and orchestrators. */
export const probePaths: ReadonlySet<string> = new Set(['/livez', '/readyz', '/healthz', '/health']);

/**
 * Serves the probes: `/livez` (the process runs and its event loop turns), `/readyz` and `/healthz`
 * (it can serve calls, else 503 with the cause), `/health` (the same in the legacy server's shape).
 * JSON, or text lines with `?verbose`. Returns false for other requests.
 *
 * Runs before the origin check and without credentials: a probe calls a pod by its address and has
 * none. The answers are not secret.
 */
export function createProbes(readiness: Readiness): (request: Request, response: Response) => boolean {
  return (request, response) => {
    if (request.method !== 'GET' && request.method !== 'HEAD') return false;
    const [path = '', search = ''] = (request.url ?? '').split('?', 2);
    if (!probePaths.has(path)) return false;
    const verbose = new URLSearchParams(search).has('verbose');
    const report: Promise<Report> = path === '/livez' ? Promise.resolve({ ready: true, checks: [] }) : readiness.look();
    report.then(
      (found) =>
        path === '/health'
          ? answerLegacy(request, response, found)
          : answer(request, response, { report: found, verbose }),
      (error) => {
        const { status, body } = toHttp(toConnectError(error));
        end(request, response, { status, type: 'application/json', text: JSON.stringify(body) });
      },
    );
    return true;
  };
}

function answer(
  request: Request,
  response: Response,
  { report: { ready, checks }, verbose }: { report: Report; verbose: boolean },
): void {
  const status = ready ? 200 : 503;
  if (verbose) {
    const lines = checks.map(({ name, fault }) => (fault === undefined ? `[+] ${name}: ok` : `[-] ${name}: ${fault}`));
    const text = [...lines, ready ? 'ok' : 'not ready', ''].join('\n');
    end(request, response, { status, type: 'text/plain; charset=utf-8', text });
    return;
  }
  const results = Object.fromEntries(checks.map(({ name, fault }) => [name, fault ?? 'ok']));
  const body = { status: ready ? 'ok' : 'unavailable', ...(checks.length === 0 ? {} : { checks: results }) };
  end(request, response, { status, type: 'application/json', text: JSON.stringify(body) });
}

/** `{"status":"ok"}`, or `error` with a message. */
function answerLegacy(request: Request, response: Response, { ready, checks }: Report): void {
  const message = checks.flatMap(({ name, fault }) => (fault === undefined ? [] : [`${name}: ${fault}`])).join('; ');
  const text = JSON.stringify(ready ? { status: 'ok' } : { status: 'error', message });
  end(request, response, { status: ready ? 200 : 503, type: 'application/json', text });
}

function end(
  request: Request,
  response: Response,
  { status, type, text }: { status: number; type: string; text: string },
): void {
  if (response.destroyed) return;
  response.writeHead(status, {
    'content-type': type,
    'content-length': Buffer.byteLength(text),
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
  });
  response.end(request.method === 'HEAD' ? '' : text);
}
