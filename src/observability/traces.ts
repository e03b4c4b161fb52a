import { AsyncLocalStorage } from 'node:async_hooks';
import {
  type Attributes,
  type Context,
  ROOT_CONTEXT,
  type Span,
  type SpanContext,
  SpanKind,
  SpanStatusCode,
  trace,
} from '@opentelemetry/api';
import { setGlobalErrorHandler, W3CTraceContextPropagator } from '@opentelemetry/core';
import { defaultResource, detectResources, envDetector, resourceFromAttributes } from '@opentelemetry/resources';
import {
  AlwaysOffSampler,
  AlwaysOnSampler,
  BatchSpanProcessor,
  ParentBasedSampler,
  type Sampler,
  TraceIdRatioBasedSampler,
  TracerProvider,
} from '@opentelemetry/sdk-trace';
import type { CallSpan, TraceSettings, Traces } from './tracing.ts';

/** A stop waits at most this long for the collector to take the remaining spans. */
const closeTimeoutMs = 2000;

/**
 * Status codes that OpenTelemetry's conventions for gRPC count as server errors. A caller's error
 * leaves the status of the server's span unset.
 */
const serverErrors: ReadonlySet<string> = new Set([
  'UNKNOWN',
  'DEADLINE_EXCEEDED',
  'UNIMPLEMENTED',
  'INTERNAL',
  'UNAVAILABLE',
  'DATA_LOSS',
]);

/** Carriers for the propagator. */
const fromHeaders = {
  keys: () => [],
  get: (header: { get(name: string): string | null }, name: string) => header.get(name) ?? undefined,
};
const toRecord = {
  set: (record: Record<string, string>, name: string, value: string) => {
    record[name] = value;
  },
};

/**
 * Creates spans with OpenTelemetry and exports them by OTLP. This file, and with it the SDK, is
 * imported only when traces are on. The context is kept in an AsyncLocalStorage of its own, not in
 * OpenTelemetry's global one, so that several services in one process do not mix.
 */
export async function openTraces(settings: TraceSettings, onError: (error: unknown) => void): Promise<Traces> {
  const { OTLPTraceExporter } =
    settings.protocol === 'http/json'
      ? await import('@opentelemetry/exporter-trace-otlp-http')
      : await import('@opentelemetry/exporter-trace-otlp-proto');
  setGlobalErrorHandler(onError);
  const provider = new TracerProvider({
    resource: defaultResource()
      .merge(resourceFromAttributes({ 'service.name': 'sendbatch', 'service.version': settings.version }))
      .merge(detectResources({ detectors: [envDetector] })),
    sampler: samplerOf(settings),
    spanProcessors: [new BatchSpanProcessor({ exporter: new OTLPTraceExporter({ url: settings.url }) })],
  });
  const tracer = provider.getTracer('sendbatch', settings.version);
  const propagator = new W3CTraceContextPropagator();
  const storage = new AsyncLocalStorage<Context>();

  /**
   * The span of the current work. Undefined if it has ended or is not sampled: then it needs no
   * child spans.
   */
  const active = (): Span | undefined => {
    const span = trace.getSpan(storage.getStore() ?? ROOT_CONTEXT);
    return span?.isRecording() ? span : undefined;
  };
  const start = (name: string, kind: SpanKind, parent: Context, attributes: Attributes, links?: SpanContext[]) =>
    tracer.startSpan(
      name,
      { kind, attributes, ...(links === undefined ? {} : { links: links.map((context) => ({ context })) }) },
      parent,
    );
  const within = async <T>(span: Span, parent: Context, work: () => Promise<T>): Promise<T> => {
    try {
      return await storage.run(trace.setSpan(parent, span), work);
    } catch (error) {
      fail(span, error instanceof Error ? error.name : 'error');
      throw error;
    } finally {
      span.end();
    }
  };

  return {
    beginCall({ method, system, protocol, requestId, header }): CallSpan {
      const parent = propagator.extract(ROOT_CONTEXT, header, fromHeaders);
      const span = start(method, SpanKind.SERVER, parent, {
        'rpc.system.name': system,
        'rpc.method': method,
        'sendbatch.protocol': protocol,
        'sendbatch.request_id': requestId,
      });
      const context = trace.setSpan(parent, span);
      return {
        traceId: span.spanContext().traceId,
        run: (work) => storage.run(context, work),
        end(code, errorType, attributes) {
          span.setAttributes({ ...attributes, 'rpc.response.status_code': code });
          if (errorType !== undefined) span.setAttribute('error.type', errorType);
          if (serverErrors.has(code)) span.setStatus({ code: SpanStatusCode.ERROR });
          span.end();
        },
      };
    },

    group: {
      origin: active,
      async around(origins, { jobs, items }, work) {
        const spans = origins.filter((each): each is Span => each !== undefined);
        const [first] = spans;
        // Not in the context of the call that woke the lane: that call may belong to another group.
        if (first === undefined) return await storage.run(ROOT_CONTEXT, work);
        const parent = trace.setSpan(ROOT_CONTEXT, first);
        const attributes = { 'sendbatch.group.batches': jobs, 'sendbatch.group.messages': items };
        const span = start(
          'group commit',
          SpanKind.INTERNAL,
          parent,
          attributes,
          spans.map((each) => each.spanContext()),
        );
        // The span is a child of one call; the other calls link to it.
        for (const each of spans.slice(1)) each.addLink({ context: span.spanContext() });
        return await within(span, parent, work);
      },
    },

    async statement({ name, text }, run) {
      if (active() === undefined) return await run();
      const context = storage.getStore() ?? ROOT_CONTEXT;
      const operation = /^\s*(\w+)/.exec(text)?.[1]?.toUpperCase() ?? 'SQL';
      const span = start(name ?? operation, SpanKind.CLIENT, context, {
        'db.system.name': 'postgresql',
        'db.operation.name': operation,
        'db.query.text': text,
      });
      return await within(span, context, run);
    },

    outgoing() {
      const headers: Record<string, string> = {};
      propagator.inject(storage.getStore() ?? ROOT_CONTEXT, headers, toRecord);
      return headers;
    },

    async close() {
      const { promise, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, closeTimeoutMs);
      await Promise.race([provider.shutdown().catch(onError), promise]);
      clearTimeout(timer);
    },
  };
}

function fail(span: Span, errorType: string): void {
  span.setAttribute('error.type', errorType);
  span.setStatus({ code: SpanStatusCode.ERROR });
}

function samplerOf({ sampler, ratio }: TraceSettings): Sampler {
  const root = sampler.endsWith('always_off')
    ? new AlwaysOffSampler()
    : sampler.endsWith('traceidratio')
      ? new TraceIdRatioBasedSampler(ratio)
      : new AlwaysOnSampler();
  return sampler.startsWith('parentbased_') ? new ParentBasedSampler({ root }) : root;
}
