import cliProgress from 'cli-progress';
import { paint, plain } from './output.ts';

/** A progress bar on the terminal's stderr. */
export interface Progress {
  /** Shows the bar; `done` is the progress of an earlier run. */
  begin(done: number): void;
  /** Updates the bar. The rate is calculated from `count`. */
  show(done: number, count: number, faults: number): void;
  /** Shows why there is no progress, until there is some. */
  waits(why: string): void;
  /** The last value of `done`. */
  done(): number;
  /** Whether the bar is visible. */
  isShown(): boolean;
  /** Leaves the bar as it is; later updates only count. */
  end(): void;
}

/** Creates a bar if stderr is a terminal. Without a total (standard input) it shows only counts. */
export function createProgress(options: {
  readonly quiet: boolean;
  readonly total: number | undefined;
  readonly noun: string;
  readonly fault: string;
}): Progress {
  const { quiet, total, noun, fault } = options;
  let shown = 0;
  if (quiet || process.stderr.isTTY !== true)
    return {
      begin: (done) => {
        shown = done;
      },
      show: (done) => {
        shown = done;
      },
      waits: () => {},
      isShown: () => false,
      done: () => shown,
      end: () => {},
    };
  let start = performance.now();
  let begin = 0;
  const bar = new cliProgress.SingleBar({
    stream: process.stderr,
    format:
      total === undefined
        ? `{count} ${noun} · {rate}/s · {faults}{why}`
        : `{bar} {percentage} % · {count} ${noun} · {rate}/s · {left} left · {faults}{why}`,
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 24,
    hideCursor: true,
    clearOnComplete: false,
    linewrap: false,
    gracefulExit: false,
    fps: 10,
    formatBar: (progress, { barsize = 24, barCompleteString = '', barIncompleteString = '' }) => {
      const full = Math.round(Math.min(1, progress) * barsize);
      return paint('cyan', barCompleteString.slice(0, full), process.stderr) + barIncompleteString.slice(full, barsize);
    },
  });
  let last = { done: 0, count: 0, faults: 0 };
  const payload = ({ done, count, faults }: typeof last, why = '') => {
    const seconds = (performance.now() - start) / 1000;
    const share = total === undefined || total <= begin ? 1 : (done - begin) / (total - begin);
    const words = `${faults} ${fault}`;
    const waiting = why === '' ? '' : ` · ${paint('red', why, process.stderr)}`;
    return {
      count: count.toLocaleString('en'),
      rate: Math.round(count / Math.max(seconds, 0.001)).toLocaleString('en'),
      left: share <= 0 ? '…' : formatDuration((seconds / share) * (1 - share)),
      faults: faults > 0 ? paint('yellow', words, process.stderr) : words,
      why: waiting,
    };
  };
  let running = false;
  return {
    begin(done) {
      start = performance.now();
      begin = done;
      shown = done;
      running = true;
      last = { done, count: 0, faults: 0 };
      bar.start(total ?? 0, done, payload(last));
    },
    show(done, count, faults) {
      shown = done;
      last = { done, count, faults };
      if (running) bar.update(done, payload(last));
    },
    waits(why) {
      if (running) bar.update(shown, payload(last, plain(why)));
    },
    isShown: () => running,
    done: () => shown,
    end() {
      if (running) bar.stop();
      running = false;
    },
  };
}

function formatDuration(seconds: number): string {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}
