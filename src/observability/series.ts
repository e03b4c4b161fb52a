import { type Attributes, ValueType } from '@opentelemetry/api';
import {
  AggregationTemporality,
  type DataPoint,
  DataPointType,
  type Histogram as HistogramValue,
  type MetricData,
} from '@opentelemetry/sdk-metrics';
import type { Metric } from './metrics.ts';

/** Labels of a series. Their values come from short, fixed lists: no uid, no channel, no caller. */
export type Labels = Attributes;

/** A value that only grows. */
export interface Counter {
  add(value: number, labels?: Labels): void;
}

/** A distribution in buckets. */
export interface Histogram {
  record(value: number, labels?: Labels): void;
}

const noLabels: Labels = {};

/** The series of one metric, found by the values of its labels in their declared order. */
class SeriesTree<Value> {
  readonly all: { readonly labels: Labels; readonly value: Value }[] = [];
  readonly #metric: string;
  readonly #names: readonly string[];
  readonly #create: () => Value;
  readonly #root: Node<Value> = { children: undefined, value: undefined };

  constructor({ name, labels = [] }: Metric, create: () => Value) {
    this.#metric = name;
    this.#names = labels;
    this.#create = create;
  }

  find(labels: Labels): Value {
    let node = this.#root;
    for (const name of this.#names) {
      const value = labels[name];
      node.children ??= new Map();
      let child = node.children.get(value);
      if (child === undefined) {
        child = { children: undefined, value: undefined };
        node.children.set(value, child);
      }
      node = child;
    }
    if (node.value === undefined) {
      const stranger = Object.keys(labels).find((name) => !this.#names.includes(name));
      if (stranger !== undefined) throw new Error(`${this.#metric} has no label ${stranger}`);
      node.value = this.#create();
      this.all.push({ labels, value: node.value });
    }
    return node.value;
  }
}

interface Node<Value> {
  children: Map<unknown, Node<Value>> | undefined;
  value: Value | undefined;
}

/** The data of a metric for a scrape; undefined while it has no series. */
export interface Recorded {
  collect(): MetricData | undefined;
}

/**
 * A counter whose series are found by the values of their labels. OpenTelemetry's own sorts the
 * labels and serializes them to JSON at each recording: 2.8 µs with four of them, here 0.2.
 */
export class RecordedCounter implements Counter, Recorded {
  readonly metric: Metric;
  readonly #series: SeriesTree<{ sum: number }>;

  constructor(metric: Metric) {
    this.metric = metric;
    this.#series = new SeriesTree(metric, () => ({ sum: 0 }));
  }

  read(): Count[] {
    return this.#series.all.map(({ labels, value: { sum } }) => ({ labels, sum }));
  }

  add(value: number, labels = noLabels): void {
    this.#series.find(labels).sum += value;
  }

  collect(): MetricData | undefined {
    const points = this.#series.all.map(({ labels, value: { sum } }) => pointOf(labels, sum));
    if (points.length === 0) return undefined;
    return { ...descriptionOf(this.metric), dataPointType: DataPointType.SUM, isMonotonic: true, dataPoints: points };
  }
}

interface Distribution {
  sum: number;
  count: number;
  /** One more than bounds: the last has what is above all of them. */
  readonly counts: number[];
}

/** A series of a counter. */
export interface Count {
  readonly labels: Labels;
  readonly sum: number;
}

/** A series of a histogram: values per bucket, the last one for those above all bounds. */
export interface BucketCounts {
  readonly labels: Labels;
  readonly counts: readonly number[];
}

/** As RecordedCounter, for a histogram. */
export class RecordedHistogram implements Histogram, Recorded {
  readonly metric: Metric;
  readonly #bounds: number[];
  readonly #series: SeriesTree<Distribution>;

  constructor(metric: Metric) {
    this.metric = metric;
    this.#bounds = [...(metric.bounds ?? [])];
    const buckets = this.#bounds.length + 1;
    this.#series = new SeriesTree(metric, () => ({ sum: 0, count: 0, counts: new Array<number>(buckets).fill(0) }));
  }

  record(value: number, labels = noLabels): void {
    const series = this.#series.find(labels);
    series.sum += value;
    series.count++;
    let bucket = 0;
    while (bucket < this.#bounds.length && value > (this.#bounds[bucket] as number)) bucket++;
    (series.counts[bucket] as number)++;
  }

  read(): BucketCounts[] {
    return this.#series.all.map(({ labels, value: { counts } }) => ({ labels, counts }));
  }

  collect(): MetricData | undefined {
    const boundaries = this.#bounds;
    const points = this.#series.all.map(({ labels, value: { sum, count, counts } }) =>
      pointOf<HistogramValue>(labels, { sum, count, buckets: { boundaries, counts: [...counts] } }),
    );
    if (points.length === 0) return undefined;
    return { ...descriptionOf(this.metric), dataPointType: DataPointType.HISTOGRAM, dataPoints: points };
  }
}

/** What the data of all metrics have in common. The units are in the names. */
function descriptionOf({ name, help }: Metric) {
  return {
    descriptor: { name, description: help, unit: '', valueType: ValueType.DOUBLE },
    aggregationTemporality: AggregationTemporality.CUMULATIVE,
  };
}

/** A value as collected. Prometheus keeps the time of its scrape, so none is given here. */
function pointOf<Value>(attributes: Labels, value: Value): DataPoint<Value> {
  return { attributes, value, startTime: [0, 0], endTime: [0, 0] };
}
