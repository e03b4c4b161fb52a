/** A metric with all its samples, in the text format of Prometheus. */
interface Family {
  readonly head: readonly string[];
  readonly samples: string[];
}

/**
 * The metrics of several workers as one page: each sample gets the label `worker`, and the samples of a metric stand together, as the format wants it. `undefined`: a
 * worker that did not answer in time; `sendbatch_worker_up` says which.
 */
export function gather(texts: ReadonlyMap<string, string | undefined>): string {
  const families = new Map<string, Family>();
  for (const [worker, text] of texts) if (text !== undefined) addTo(families, text, worker);
  const up = [...texts].map(
    ([worker, text]) => `sendbatch_worker_up{worker="${worker}"} ${text === undefined ? 0 : 1}`,
  );
  const blocks = [...families.values()].map(({ head, samples }) => [...head, ...samples].join('\n'));
  const own = [
    '# HELP sendbatch_worker_up Whether the worker answered when it was asked for its metrics.',
    '# TYPE sendbatch_worker_up gauge',
    ...up,
  ];
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
      // `# HELP name …`: the name is what the samples of workers are put together by.
      const name = head[0]?.split(' ', 3)[2] ?? '';
      const family = families.get(name) ?? { head, samples: [] };
      families.set(name, family);
      samples = family.samples;
    }
    samples.push(labelled(line, worker));
  }
}

/** `name{a="b"} 1` and `name 1` with one label more, before the others: a value may hold any character. */
function labelled(sample: string, worker: string): string {
  const end = sample.search(/[{ ]/);
  const rest = sample.slice(end);
  const label = `worker="${worker}"`;
  return `${sample.slice(0, end)}${rest.startsWith('{') ? `{${label},${rest.slice(1)}` : `{${label}}${rest}`}`;
}
