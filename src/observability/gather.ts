import { workerUp } from './metrics.ts';

/** A metric with all its samples, in the text format of Prometheus. */
interface Family {
  readonly head: readonly string[];
  readonly samples: string[];
}

/**
 * Merges the metrics of several workers into one page. Each sample gets the label `worker`; the
 * samples of a metric are grouped, as the format requires. `undefined`: the worker did not answer
 * in time, and its `sendbatch_worker_up` is 0.
 */
export function gather(texts: ReadonlyMap<string, string | undefined>): string {
  const families = new Map<string, Family>();
  for (const [worker, text] of texts) if (text !== undefined) addTo(families, text, worker);
  const up = [...texts].map(([worker, text]) => `${workerUp.name}{worker="${worker}"} ${text === undefined ? 0 : 1}`);
  const blocks = [...families.values()].map(({ head, samples }) => [...head, ...samples].join('\n'));
  const own = [`# HELP ${workerUp.name} ${workerUp.help}`, `# TYPE ${workerUp.name} ${workerUp.kind}`, ...up];
  return `${[...blocks, own.join('\n')].join('\n')}\n`;
}

function addTo(families: Map<string, Family>, text: string, worker: string): void {
  let head: string[] = [];
  let samples: string[] = [];
  let inHead = false;
  for (const line of text.split('\n')) {
    if (line === '') continue;
    if (line.startsWith('#')) {
      if (!inHead) head = [];
      inHead = true;
      head.push(line);
      continue;
    }
    if (inHead) {
      inHead = false;
      // `# HELP name …`: samples of several workers are merged by this name.
      const name = head[0]?.split(' ', 3)[2] ?? '';
      const family = families.get(name) ?? { head, samples: [] };
      families.set(name, family);
      samples = family.samples;
    }
    samples.push(labelled(line, worker));
  }
}

/**
 * Adds a label to `name{a="b"} 1` or `name 1`, before the others: a label's value may contain any
 * character.
 */
function labelled(sample: string, worker: string): string {
  const end = sample.search(/[{ ]/);
  const rest = sample.slice(end);
  const label = `worker="${worker}"`;
  return `${sample.slice(0, end)}${rest.startsWith('{') ? `{${label},${rest.slice(1)}` : `{${label}}${rest}`}`;
}
