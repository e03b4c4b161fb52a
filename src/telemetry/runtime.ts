import { constants, monitorEventLoopDelay, PerformanceObserver, performance } from 'node:perf_hooks';
import type { Registry } from './registry.ts';

const delayResolutionMs = 10;
const gcBounds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5];
const gcKinds: Record<number, string> = {
  [constants.NODE_PERFORMANCE_GC_MAJOR]: 'major',
  [constants.NODE_PERFORMANCE_GC_MINOR]: 'minor',
  [constants.NODE_PERFORMANCE_GC_INCREMENTAL]: 'incremental',
  [constants.NODE_PERFORMANCE_GC_WEAKCB]: 'weakcb',
};

/** What the process itself says: event loop, memory, garbage collection, CPU, when it began, which build it is. Returns what ends the watching. */
export function watchRuntime(registry: Registry, build: { readonly version: string }): () => void {
  const delay = monitorEventLoopDelay({ resolution: delayResolutionMs });
  delay.enable();
  let busy = performance.eventLoopUtilization();
  const collections = registry.histogram(
    'v8js_gc_duration_seconds',
    'Pauses of garbage collection, by type.',
    gcBounds,
  );
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const { kind } = (entry as unknown as { detail: { kind: number } }).detail;
      collections.record(entry.duration / 1000, { type: gcKinds[kind] ?? 'other' });
    }
  });
  observer.observe({ entryTypes: ['gc'] });

  const late = (name: string, which: string, nanoseconds: () => number) =>
    registry.gauge(
      `nodejs_eventloop_delay_${name}_seconds`,
      `How late the event loop came to its timers since the last scrape: ${which}.`,
      () => [{ value: secondsLate(nanoseconds()) }],
    );
  late('p99', 'the 99th percentile', () => delay.percentile(99));
  late('max', 'the most, after which it begins anew', () => {
    const { max } = delay;
    delay.reset();
    return max;
  });
  registry.gauge(
    'nodejs_eventloop_utilization_ratio',
    'The share of time that the event loop was busy since the last scrape.',
    () => {
      const now = performance.eventLoopUtilization();
      const { utilization } = performance.eventLoopUtilization(now, busy);
      busy = now;
      return [{ value: Number.isFinite(utilization) ? utilization : 0 }];
    },
  );
  registry.gauge('process_resident_memory_bytes', 'Resident memory.', () => [{ value: process.memoryUsage.rss() }]);
  registry.gauge('nodejs_memory_bytes', 'Memory of V8, by kind.', () => {
    const { heapUsed, heapTotal, external, arrayBuffers } = process.memoryUsage();
    return Object.entries({ heap_used: heapUsed, heap_total: heapTotal, external, array_buffers: arrayBuffers }).map(
      ([kind, value]) => ({ value, labels: { kind } }),
    );
  });
  registry.readCounter('process_cpu_seconds_total', 'CPU time of the process, by mode.', () => {
    const { user, system } = process.cpuUsage();
    return [
      { value: user / 1e6, labels: { mode: 'user' } },
      { value: system / 1e6, labels: { mode: 'system' } },
    ];
  });
  registry.gauge('process_start_time_seconds', 'When the process began, as Unix time.', () => [
    { value: performance.timeOrigin / 1000 },
  ]);
  registry.gauge('sendbatch_build_info', 'Which build this is: always 1.', () => [
    { value: 1, labels: { version: build.version, node: process.versions.node } },
  ]);
  return () => {
    delay.disable();
    observer.disconnect();
  };
}

/** The monitor counts its own period in: what is left is lateness. Before its first sample it has none. */
function secondsLate(nanoseconds: number): number {
  return Number.isFinite(nanoseconds) ? Math.max(0, nanoseconds / 1e9 - delayResolutionMs / 1000) : 0;
}
