import { setTimeout as delay } from 'node:timers/promises';
import { limits } from '../limits.ts';
import type { Readiness } from '../postgres/readiness.ts';
import { rejectedRequestOf } from '../rpc/request-context.ts';
import { createBodyBudget } from '../server/body-budget.ts';
import { createDispatch } from '../server/dispatch.ts';
import type { Handlers } from '../server/handlers.ts';
import { createLoadShedding } from '../server/load-shedding.ts';
import { createOriginCheck } from '../server/origin-check.ts';
import { type Listener, listen } from '../server/port.ts';
import type { Foundation } from './foundation.ts';
import type { WiredSending } from './wire-sending.ts';

/** Bodies that arrive within this time do not count against the body budget's slowest. */
const bodyGraceMs = 1000;

/** Opens the port. On stop it drains first, then ends streams, then waits for calls in flight. */
export async function wirePort(
  { config, events, lifecycle }: Foundation,
  { overload }: Pick<WiredSending, 'overload'>,
  handlers: Handlers,
  { readiness, endStreams }: { readonly readiness: Readiness; readonly endStreams: () => void },
): Promise<Listener> {
  const bodyBudget = createBodyBudget({
    maxBytes: limits.bodiesBytes,
    graceMs: bodyGraceMs,
    isStream: handlers.isStream,
    onEvicted: (context) => events.bodyEvicted(rejectedRequestOf(context)),
  });
  const originCheck = createOriginCheck({ open: config.open, allowedOrigins: config.allowedOrigins });
  const loadShedding = createLoadShedding(overload);
  const listener = await listen({
    host: config.host,
    port: config.port,
    ...(config.tls === undefined ? {} : { tls: config.tls }),
    handler: createDispatch({ handlers, originCheck, loadShedding, bodyBudget }),
    onDefect: (error, request) => events.requestFailed(rejectedRequestOf({ request }), error),
    takesStream: handlers.unaryGrpc.takes,
  });
  lifecycle.onStop('port', () => listener.close(lifecycle.graceLeftMs()));
  // Before the port closes: a tail has no end of its own to wait for.
  lifecycle.onStop('streams', endStreams);
  // First of all: load balancers see the instance as not ready, and get time to notice.
  lifecycle.onStop('drain', async () => {
    await readiness.drain();
    await delay(config.drainDelayMs);
    lifecycle.restartGrace();
  });
  return listener;
}
