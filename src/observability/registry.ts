import type { Attributes, Counter, Histogram } from '@opentelemetry/api';
import { PrometheusExporter, PrometheusSerializer } from '@opentelemetry/exporter-prometheus';
import { MeterProvider } from '@opentelemetry/sdk-metrics';
import type { Metric } from './metrics.ts';

/** Labels of a series. Their values come from short, fixed lists: no uid, no channel, no caller. */
export type Labels = Attributes;

/** A value that is read at each scrape. */
export type Reading = { readonly value: number; readonly labels?: Labels };

/** The metrics of one service. */
export interface Registry {
  counter(metric: Metric): Counter;
  histogram(metric: Metric): Histogram;
  /** Read at each scrape; costs nothing in between. */
  gauge(metric: Metric, read: () => readonly Reading[] | Promise<readonly Reading[]>): void;
  /** As a gauge, for a value that only grows. */
  readCounter(metric: Metric, read: () => readonly Reading[]): void;
  /** All metrics in the text format of Prometheus. */
  text(): Promise<string>;
  close(): Promise<void>;
}

/**
 * A registry per service, so that several services in one process do not mix. Recording takes 0.6
 * µs with four labels, 0.2 µs with one and 0.1 µs without: the SDK serializes the labels to JSON
 * each time.
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
    counter: ({ name, help }) => meter.createCounter(name, { description: help }),
    histogram: ({ name, help, bounds = [] }) =>
      meter.createHistogram(name, { description: help, advice: { explicitBucketBoundaries: [...bounds] } }),
    gauge({ name, help }, read) {
      meter.createObservableGauge(name, { description: help }).addCallback(observed(read));
    },
    readCounter({ name, help }, read) {
      meter.createObservableCounter(name, { description: help }).addCallback(observed(read));
    },
    async text() {
      const { resourceMetrics } = await reader.collect();
      return `${serializer.serialize(resourceMetrics).trimEnd()}\n`;
    },
    close: () => provider.shutdown(),
  };
}
