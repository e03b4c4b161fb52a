import type { MessageDraft } from '../../../gen/client/sendbatch/v1/message_pb.ts';
import type { Problem } from '../files/problem.ts';
import type { Table } from '../files/table.ts';
import { createMessageMaker, isProblem } from './messages.ts';
import type { Plan } from './plan.ts';

/** What becomes of a row. */
export const rowState = { sent: 0, duplicate: 1, invalid: 2, refused: 3 } as const;

/** Rows with the same problem. */
export interface ProblemGroup {
  readonly problem: Problem;
  readonly count: number;
  /** The first lines that have it. */
  readonly lines: readonly number[];
}

/** Who would get a batch, found out without the service. */
export interface Audience {
  /** Rows of the file, with those that cannot be read. */
  readonly rows: number;
  /** Messages that would be sent. */
  readonly messages: number;
  /** Different channels among them. */
  readonly receivers: number;
  /** Receivers that would get several messages, and an example. */
  readonly repeated: { readonly receivers: number; readonly example: RepeatedReceiver | undefined };
  /** Rows left out because their value in the unique column occurred before. */
  readonly duplicates: number;
  /** Rows that cannot be sent, by problem. */
  readonly invalid: { readonly rows: number; readonly groups: readonly ProblemGroup[] };
  /** Empty cells that the template inserts. */
  readonly emptyCells: readonly ProblemGroup[];
  /** Payload sizes in bytes; undefined if the template's text is not known. */
  readonly bytes: { readonly least: number; readonly most: number; readonly mostRow: number } | undefined;
  /** The template's variables without a column. */
  readonly unknownVariables: readonly string[];
  readonly templateFault: string | undefined;
  /** Messages with a time of their own. */
  readonly ownTimes: number;
}

interface RepeatedReceiver {
  readonly channelId: string;
  readonly lines: readonly number[];
}

const shownLines = 5;
/** Rows between two pauses, in which the worker answers other calls. */
const sliceRows = 2_000;

/** Groups problems by their words. */
export class ProblemGroups {
  readonly #groups = new Map<string, { problem: Problem; count: number; lines: number[] }>();
  count = 0;

  add(line: number, problem: Problem, key = keyOf(problem)): void {
    this.count++;
    const group = this.#groups.get(key) ?? { problem, count: 0, lines: [] };
    this.#groups.set(key, group);
    group.count++;
    if (group.lines.length < shownLines) group.lines.push(line);
  }

  /** The groups, largest first. */
  list(): ProblemGroup[] {
    return [...this.#groups.values()].sort((a, b) => b.count - a.count);
  }
}

/** Problems differ by what is wrong, not by the value of the row. */
function keyOf({ code, values = {} }: Problem): string {
  const { field, names, column, text, reason } = values;
  return [code, field, names, column, text, reason].join(' ');
}

/** Goes over all rows; fills `states`, one per row. Throws when the signal aborts it. */
export async function findAudience(
  table: Table,
  plan: Plan,
  {
    states,
    signal,
    onProgress,
  }: { readonly states: Uint8Array; readonly signal: AbortSignal; readonly onProgress: (rows: number) => void },
): Promise<Audience> {
  const maker = createMessageMaker(table, plan);
  const invalid = new ProblemGroups();
  for (const { line, problem } of table.faults) invalid.add(line, problem);
  const empty = new ProblemGroups();
  const uniqueAt = plan.uniqueColumn === undefined ? -1 : table.columns.indexOf(plan.uniqueColumn);
  const seen = new Set<string>();
  const linesOf = new Map<string, number[]>();
  const inserted = maker.variables
    .map((name) => ({ name, at: table.columns.indexOf(name) }))
    .filter(({ at }) => at >= 0);
  let [messages, duplicates, ownTimes, mostRow] = [0, 0, 0, 0];
  let [least, most] = [Number.POSITIVE_INFINITY, -1];
  for (const [row, cells] of table.rows.entries()) {
    if (row % sliceRows === 0) {
      onProgress(row);
      await pause();
      signal.throwIfAborted();
    }
    const line = table.lines[row] ?? 0;
    const draft = maker.draft(row);
    const rendered = isProblem(draft) ? draft : maker.render(draft);
    if (isProblem(draft) || (rendered !== undefined && isProblem(rendered))) {
      states[row] = rowState.invalid;
      invalid.add(line, rendered as Problem);
      continue;
    }
    const value = uniqueAt === -1 ? '' : (cells[uniqueAt] ?? '');
    if (value !== '') {
      if (seen.has(value)) {
        states[row] = rowState.duplicate;
        duplicates++;
        continue;
      }
      seen.add(value);
    }
    states[row] = rowState.sent;
    messages++;
    if (draft.sendAt !== undefined) ownTimes++;
    const receiver = receiverOf(draft);
    const lines = linesOf.get(receiver);
    if (lines === undefined) linesOf.set(receiver, [line]);
    else lines.push(line);
    for (const { name, at } of inserted)
      if ((cells[at] ?? '').trim() === '') empty.add(line, { code: 'missing', values: { names: name } });
    if (rendered === undefined) continue;
    const { length } = rendered.payload;
    least = Math.min(least, length);
    if (length > most) [most, mostRow] = [length, row];
  }
  const repeated = [...linesOf].filter(([, lines]) => lines.length > 1);
  const [example] = repeated;
  return {
    rows: table.rows.length + table.faults.length,
    messages,
    receivers: linesOf.size,
    repeated: {
      receivers: repeated.length,
      example:
        example === undefined
          ? undefined
          : { channelId: example[0].slice(example[0].indexOf(' ') + 1), lines: example[1].slice(0, shownLines) },
    },
    duplicates,
    invalid: { rows: invalid.count, groups: invalid.list() },
    emptyCells: empty.list(),
    bytes: most < 0 ? undefined : { least, most, mostRow },
    unknownVariables: maker.variables.filter((name) => !table.columns.includes(name)),
    templateFault: maker.templateFault,
    ownTimes,
  };
}

function receiverOf({ channelType, channelId }: MessageDraft): string {
  return `${channelType} ${channelId}`;
}

/** Lets the event loop handle a message to the worker. */
export function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}
