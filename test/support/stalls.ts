/**
 * Measures the longest time in which this thread did one thing without returning to its event loop,
 * in ms of CPU, so that other work on the machine does not count.
 * Returns a function that ends the measurement and returns that time.
 */
export function watchStalls(): () => number {
  const cpuMs = () => {
    const { user, system } = process.threadCpuUsage();
    return (user + system) / 1000;
  };
  let longest = 0;
  let last = cpuMs();
  let isOver = false;
  const tick = () => {
    const now = cpuMs();
    longest = Math.max(longest, now - last);
    last = now;
    if (!isOver) setTimeout(tick, 1).unref();
  };
  setTimeout(tick, 1).unref();
  return () => {
    isOver = true;
    return longest;
  };
}
