import type { Attributes, Counter, Histogram } from '@opentelemetry/api';
import { PrometheusExporter, PrometheusSerializer } from '@opentelemetry/exporter-prometheus';
import { MeterProvider } from '@opentelemetry/sdk-metrics';

/** Labels of a series. They stay few: no uid, no channel, no caller. */
export type Labels = Attributes;

/** A value that is read when somebody asks for the metrics. */
export type Reading = { readonly value: number; readonly labels?: Labels };

/** The metrics of one service. A name ends with its unit, as Prometheus has it; a counter's `_total` is added. */
export interface Registry {
  counter(name: string, help: string): Counter;
  histogram(name: string, help: string, bounds: readonly number[]): Histogram;
  /** Read at each scrape, and costs nothing between two. */
  gauge(name: string, help: string, read: () => readonly Reading[] | Promise<readonly Reading[]>): void;
  /** As a gauge, of what only grows. */
  readCounter(name: string, help: string, read: () => readonly Reading[]): void;
  /** All of it as Prometheus reads it. */
  text(): Promise<string>;
  close(): Promise<void>;
}

/** Seconds that calls, commits and waits take: half a millisecond on an idle machine, half a minute at the longest deadline. */
export const secondsBounds: readonly number[] = [
  0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
];

/**
 * A registry of its own for each service, so that several of one process do not mix. Recording was measured at 0.6 µs with four labels, 0.2 with one, 0.1 without:
 * labels are a JSON text each time.
 */
export function createRegistry(): Registry {
  const reader = new PrometheusExporter({ preventServerStart: true });
  const serializer = new PrometheusSerializer('', false, undefined, true, true);
  const provider = new MeterProvider({ readers: [reader] });
  const meter = provider.getMeter('sendbatch');
  const observed =
    (read: () => readonly Reading[] | Promise<readonly Reading[]>) =>
    async (result: { observe(value: number, labels?: Labels): void }): Promise<void> => {
      for (const { value, labels } of await read()) result.observe(value, labels);
    };
  return {
    counter: (name, help) => meter.createCounter(name, { description: help }),
    histogram: (name, help, bounds) =>
      meter.createHistogram(name, { description: help, advice: { explicitBucketBoundaries: [...bounds] } }),
    gauge(name, help, read) {
      meter.createObservableGauge(name, { description: help }).addCallback(observed(read));
    },
    readCounter(name, help, read) {
      meter.createObservableCounter(name, { description: help }).addCallback(observed(read));
    },
    async text() {
      const { resourceMetrics } = await reader.collect();
      return `${serializer.serialize(resourceMetrics).trimEnd()}\n`;
    },
    close: () => provider.shutdown(),
  };
}
