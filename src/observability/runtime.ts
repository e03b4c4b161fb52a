import { constants, monitorEventLoopDelay, PerformanceObserver, performance } from 'node:perf_hooks';
import { metrics } from './metrics.ts';
import type { Registry } from './registry.ts';

const delayResolutionMs = 10;
const gcTypes: Record<number, string> = {
  [constants.NODE_PERFORMANCE_GC_MAJOR]: 'major',
  [constants.NODE_PERFORMANCE_GC_MINOR]: 'minor',
  [constants.NODE_PERFORMANCE_GC_INCREMENTAL]: 'incremental',
  [constants.NODE_PERFORMANCE_GC_WEAKCB]: 'weakcb',
};

/**
 * Measures the process: event loop, memory, garbage collection, CPU, start time, build. Returns a
 * function that stops it.
 */
export function watchRuntime(registry: Registry, build: { readonly version: string }): () => void {
  const delay = monitorEventLoopDelay({ resolution: delayResolutionMs });
  delay.enable();
  let busy = performance.eventLoopUtilization();
  const collections = registry.histogram(metrics.gcDuration);
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const { kind } = (entry as unknown as { detail: { kind: number } }).detail;
      collections.record(entry.duration / 1000, { v8js_gc_type: gcTypes[kind] ?? 'other' });
    }
  });
  observer.observe({ entryTypes: ['gc'] });

  registry.gauge(metrics.eventLoopDelayP99, () => [{ value: delaySeconds(delay.percentile(99)) }]);
  registry.gauge(metrics.eventLoopDelayMax, () => {
    const { max } = delay;
    delay.reset();
    return [{ value: delaySeconds(max) }];
  });
  registry.gauge(metrics.eventLoopUtilization, () => {
    const now = performance.eventLoopUtilization();
    const { utilization } = performance.eventLoopUtilization(now, busy);
    busy = now;
    return [{ value: Number.isFinite(utilization) ? utilization : 0 }];
  });
  registry.gauge(metrics.residentMemory, () => [{ value: process.memoryUsage.rss() }]);
  registry.gauge(metrics.memory, () => {
    const { heapUsed, heapTotal, external, arrayBuffers } = process.memoryUsage();
    return Object.entries({ heap_used: heapUsed, heap_total: heapTotal, external, array_buffers: arrayBuffers }).map(
      ([kind, value]) => ({ value, labels: { kind } }),
    );
  });
  registry.readCounter(metrics.cpu, () => {
    const { user, system } = process.cpuUsage();
    return [
      { value: user / 1e6, labels: { mode: 'user' } },
      { value: system / 1e6, labels: { mode: 'system' } },
    ];
  });
  registry.gauge(metrics.startTime, () => [{ value: performance.timeOrigin / 1000 }]);
  registry.gauge(metrics.buildInfo, () => [
    { value: 1, labels: { version: build.version, node: process.versions.node } },
  ]);
  return () => {
    delay.disable();
    observer.disconnect();
  };
}

/**
 * The monitor's samples include its own period, which is no delay. Before the first sample they are
 * not finite.
 */
function delaySeconds(nanoseconds: number): number {
  return Number.isFinite(nanoseconds) ? Math.max(0, nanoseconds / 1e9 - delayResolutionMs / 1000) : 0;
}
