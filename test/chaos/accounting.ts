/**
 * Compares what callers were told in a chaos run with what is stored and what readers received.
 * Pure: a unit test shows that each kind of damage is reported.
 */

/** A message that a caller sent, with the numbers of one acknowledgement. */
export interface Acknowledged {
  readonly writer: string;
  readonly channelId: string;
  readonly key: string;
  readonly messageSeq: number;
  readonly messageId: number;
  /** Whether it is the first acknowledgement of its batch: later ones are retries. */
  readonly isFirst: boolean;
  /** The last sequence of the channel that its batch required. */
  readonly expectedLastSeq?: number;
}

export interface StoredMessage {
  readonly channelId: string;
  /** Whether it is a command, which is numbered apart. */
  readonly isCommand: boolean;
  readonly messageSeq: number;
  readonly messageId: number;
  readonly key: string;
}

/** What was received of a channel: sequences in the order of their first arrival. */
export interface Received {
  readonly name: string;
  readonly channelId: string;
  readonly seqs: readonly number[];
  /** A tail may not repeat; webhooks may. */
  readonly repeats: number;
}

export interface Evidence {
  readonly stored: readonly StoredMessage[];
  /** In the order of their arrival at each writer. */
  readonly acknowledged: readonly Acknowledged[];
  /** Keys of every message that was ever sent. */
  readonly attempted: ReadonlySet<string>;
  /** Keys of messages that submitted batches reported as sent. */
  readonly submitted: readonly string[];
  /** Keys of ATOMIC batches that were never retried: all or none of each is stored. */
  readonly abandoned: readonly (readonly string[])[];
  readonly tails: readonly Received[];
  readonly webhooks: readonly Received[];
  /** Commands of one user by its own numbering. */
  readonly commands: ReadonlyMap<number, string>;
  /** What callers and readers found to be wrong while it happened. */
  readonly observed: readonly string[];
}

export interface Account {
  readonly acknowledged: number;
  readonly stored: number;
  readonly violations: readonly string[];
}

/** Violations named at most per kind. */
const named = 5;

export function account(evidence: Evidence): Account {
  const violations: string[] = [];
  const report = (what: string, each: readonly string[]) => {
    if (each.length > 0) violations.push(`${each.length} ${what}: ${each.slice(0, named).join('; ')}`);
  };
  const { stored, acknowledged, attempted } = evidence;
  const byKey = Map.groupBy(stored, (row) => row.key);
  const channels = Map.groupBy(
    stored.filter((row) => !row.isCommand),
    (row) => row.channelId,
  );
  const headOf = (channelId: string) => channels.get(channelId)?.length ?? 0;

  report(
    'acknowledged messages are lost or have other numbers',
    acknowledged
      .filter(
        ({ key, messageSeq, messageId }) =>
          !byKey.get(key)?.some((row) => row.messageSeq === messageSeq && row.messageId === messageId),
      )
      .map(({ channelId, key, messageSeq }) => `${key} as ${channelId} seq ${messageSeq}`),
  );
  report(
    'messages of submitted batches are lost',
    evidence.submitted.filter((key) => !byKey.has(key)),
  );
  report(
    'messages are stored twice',
    [...byKey].filter(([, rows]) => rows.length > 1).map(([key]) => key),
  );
  report(
    'stored messages were never sent',
    [...byKey.keys()].filter((key) => !attempted.has(key)),
  );
  report(
    'channels have gaps',
    [...channels].filter(([, rows]) => !isDense(rows.map((row) => row.messageSeq))).map(([id]) => id),
  );
  report(
    'abandoned ATOMIC batches are stored in part',
    evidence.abandoned
      .filter((keys) => new Set(keys.map((key) => byKey.has(key))).size > 1)
      .map((keys) => keys.join(' ')),
  );
  report('messages are out of the order of their sender', outOfOrder(acknowledged));
  report(
    'conditional messages do not follow the sequence that they required',
    acknowledged
      .filter(({ expectedLastSeq, messageSeq }) => expectedLastSeq !== undefined && messageSeq <= expectedLastSeq)
      .map(({ key }) => key),
  );
  for (const { name, channelId, seqs, repeats } of evidence.tails) {
    if (seqs.length !== headOf(channelId) || !seqs.every((seq, index) => seq === index + 1))
      report(`${name} of ${channelId} is wrong`, [`${seqs.length} received, ${headOf(channelId)} stored`]);
    if (repeats > 0) report(`${name} of ${channelId} repeats`, [String(repeats)]);
  }
  for (const { name, channelId, seqs } of evidence.webhooks)
    if (seqs.length !== headOf(channelId) || !seqs.every((seq, index) => seq === index + 1))
      report(`${name} of ${channelId} is wrong`, [`${seqs.length} received, ${headOf(channelId)} stored`]);
  const commands = stored.filter((row) => row.isCommand).map((row) => row.key);
  const received = [...evidence.commands].sort(([a], [b]) => a - b);
  if (!isDense(received.map(([seq]) => seq))) report('numbers of commands have gaps', [String(received.length)]);
  report('commands were not received', missing(commands, new Set(evidence.commands.values())));
  if (new Set(evidence.commands.values()).size !== evidence.commands.size)
    report('commands were received under two numbers', [String(evidence.commands.size)]);
  report('observations', evidence.observed);
  return { acknowledged: new Set(acknowledged.map(({ key }) => key)).size, stored: stored.length, violations };
}

const missing = (wanted: readonly string[], given: ReadonlySet<string>) => wanted.filter((key) => !given.has(key));

function isDense(seqs: readonly number[]): boolean {
  return [...seqs].sort((a, b) => a - b).every((seq, index) => seq === index + 1);
}

/** A writer sends one batch after the other: its sequences rise within a channel. */
function outOfOrder(acknowledged: readonly Acknowledged[]): string[] {
  const last = new Map<string, number>();
  const found: string[] = [];
  for (const { writer, channelId, messageSeq, key, isFirst } of acknowledged) {
    if (!isFirst) continue;
    const place = `${writer} ${channelId}`;
    if (messageSeq <= (last.get(place) ?? 0)) found.push(key);
    last.set(place, messageSeq);
  }
  return found;
}
