import { PrometheusExporter, PrometheusSerializer } from '@opentelemetry/exporter-prometheus';
import { MeterProvider } from '@opentelemetry/sdk-metrics';
import type { Metric } from './metrics.ts';
import {
  type BucketCounts,
  type Count,
  type Counter,
  type Histogram,
  type Labels,
  type Recorded,
  RecordedCounter,
  RecordedHistogram,
} from './series.ts';

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
  /** The series of a counter so far. */
  counts(metric: Metric): readonly Count[];
  /** The series of a histogram so far. */
  buckets(metric: Metric): readonly BucketCounts[];
  /** All metrics in the text format of Prometheus. */
  text(): Promise<string>;
  close(): Promise<void>;
}

/**
 * A registry per service, so that several services in one process do not mix. Values that are read
 * at a scrape come from the OpenTelemetry SDK; counters and histograms are recorded in series.ts.
 */
export function createRegistry(): Registry {
  const recorded: Recorded[] = [];
  const add = <Each extends Recorded>(metric: Each): Each => {
    recorded.push(metric);
    return metric;
  };
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
    counter: (metric) => add(new RecordedCounter(metric)),
    histogram: (metric) => add(new RecordedHistogram(metric)),
    gauge({ name, help }, read) {
      meter.createObservableGauge(name, { description: help }).addCallback(observed(read));
    },
    readCounter({ name, help }, read) {
      meter.createObservableCounter(name, { description: help }).addCallback(observed(read));
    },
    counts: (metric) =>
      recorded.flatMap((each) =>
        each instanceof RecordedCounter && each.metric.name === metric.name ? each.read() : [],
      ),
    buckets: (metric) =>
      recorded.flatMap((each) =>
        each instanceof RecordedHistogram && each.metric.name === metric.name ? each.read() : [],
      ),
    async text() {
      const { resourceMetrics } = await reader.collect();
      const scope = { name: 'sendbatch' };
      const scopeMetrics = [
        { scope, metrics: recorded.map((each) => each.collect()).filter((each) => each !== undefined) },
        ...resourceMetrics.scopeMetrics,
      ];
      return `${serializer.serialize({ ...resourceMetrics, scopeMetrics }).trimEnd()}\n`;
    },
    close: () => provider.shutdown(),
  };
}
