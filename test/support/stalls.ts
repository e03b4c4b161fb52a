/**
 * Watches how long this thread does one thing without a turn of its event loop, in milliseconds of the processor: what the machine does meanwhile does not count.
 * Returns what ends the watch and tells the longest.
 */
export function watchStalls(): () => number {
  const cpuMs = () => {
    const { user, system } = process.threadCpuUsage();
    return (user + system) / 1000;
  };
  let longest = 0;
  let last = cpuMs();
  let isOver = false;
  const turn = () => {
    const now = cpuMs();
    longest = Math.max(longest, now - last);
    last = now;
    if (!isOver) setTimeout(turn, 1).unref();
  };
  setTimeout(turn, 1).unref();
  return () => {
    isOver = true;
    return longest;
  };
}
