/** What was found about one sequence of a channel. */
export interface ChannelFacts {
  readonly channelType: number;
  readonly channelId: string;
  /** 0 messages, 1 commands. */
  readonly sequence: number;
  /** The last sequence by its head; undefined when the head is missing. */
  readonly lastSeq: number | undefined;
  /** Messages removed by the sweeper. */
  readonly swept: number;
  readonly kept: number;
  readonly firstKept: number | undefined;
  readonly lastKept: number | undefined;
  /** The last kept message before the first gap. */
  readonly beforeGap: number | undefined;
  /** Messages with a once-only key of another message, and the sequence of one of them. */
  readonly doubles: number;
  readonly doubleAt: number | undefined;
  /** Messages whose id is not above their predecessor's, and the first of them. */
  readonly falls: number;
  readonly fallAt: number | undefined;
  /** Messages whose id is outside 1 to 2^53-1, and the first of them. */
  readonly oddIds: number;
  readonly oddIdAt: number | undefined;
  /** Messages whose id is one of another shard, and the first of them. */
  readonly foreignIds: number;
  readonly foreignIdAt: number | undefined;
}

/** An invariant of the store that does not hold. */
export interface ChannelViolation {
  readonly kind:
    | 'HEAD_MISSING'
    | 'HEAD_BEHIND'
    | 'MESSAGES_MISSING'
    | 'DOUBLE_SEQUENCE'
    | 'DOUBLE_KEY'
    | 'IDS_NOT_RISING'
    | 'ID_OUT_OF_RANGE'
    | 'DOUBLE_ID'
    | 'ID_OF_OTHER_SHARD'
    | 'OTHER_SHARD'
    | 'CHANNEL_MISSING'
    | 'IDS_AHEAD_OF_BLOCKS'
    | 'CHANGES_MISSING'
    | 'CHANGES_AHEAD'
    | 'CHANGE_WITHOUT_MESSAGE'
    | 'CHANGE_MISMATCH'
    | 'RECALLED_CONTENT'
    | 'ACKNOWLEDGED_LOST'
    | 'ACKNOWLEDGED_MISNUMBERED'
    | 'ACKNOWLEDGED_CHANGED';
  readonly channelType?: number;
  readonly channelId?: string;
  readonly sequence?: number;
  /** Description with the numbers. */
  readonly what: string;
}

/** The invariants that a channel violates. */
export function violationsOf(facts: ChannelFacts): ChannelViolation[] {
  const faults: ChannelViolation[] = [];
  const { channelType, channelId, sequence, lastSeq, kept, swept, firstKept, lastKept } = facts;
  const found = (kind: ChannelViolation['kind'], what: string) =>
    faults.push({ kind, channelType, channelId, sequence, what });
  if (lastSeq === undefined) {
    found('HEAD_MISSING', `it has no head, and ${kept} messages`);
  } else if (lastKept !== undefined && lastKept > lastSeq) {
    found('HEAD_BEHIND', `its head says ${lastSeq}, its last message is ${lastKept}`);
  } else if (kept + swept < lastSeq) {
    found('MESSAGES_MISSING', `${lastSeq - kept - swept} of ${lastSeq} messages are missing: ${whereOf(facts)}`);
  } else if (kept + swept > lastSeq) {
    const more = kept + swept - lastSeq;
    found(
      'DOUBLE_SEQUENCE',
      `${kept} kept and ${swept} swept messages are ${more} more than the ${lastSeq} of its head`,
    );
  }
  if (firstKept !== undefined && firstKept < 1)
    found('DOUBLE_SEQUENCE', `its first message has the sequence ${firstKept}, which is below 1`);
  if (facts.doubles > 0)
    found(
      'DOUBLE_KEY',
      `${facts.doubles} messages have a once-only key that another has, such as seq ${facts.doubleAt}`,
    );
  if (facts.falls > 0)
    found('IDS_NOT_RISING', `${facts.falls} ids are not above the one before, the first at seq ${facts.fallAt}`);
  if (facts.oddIds > 0)
    found('ID_OUT_OF_RANGE', `${facts.oddIds} ids are not in 1 to 2^53-1, the first at seq ${facts.oddIdAt}`);
  if (facts.foreignIds > 0)
    found(
      'ID_OF_OTHER_SHARD',
      `${facts.foreignIds} ids are of blocks of another shard, the first at seq ${facts.foreignIdAt}`,
    );
  return faults;
}

/**
 * Where messages may be missing. Sweeping leaves gaps too, so that only the first place is certain.
 */
function whereOf({ lastSeq, swept, kept, firstKept, lastKept, beforeGap }: ChannelFacts): string {
  if (kept === 0) return 'none is kept';
  const places = [
    ...(firstKept !== undefined && firstKept > 1 ? [`before seq ${firstKept}`] : []),
    ...(beforeGap === undefined ? [] : [`after seq ${beforeGap}`]),
    ...(lastKept === lastSeq ? [] : [`after seq ${lastKept}, the last that is kept`]),
  ];
  return `${places.join(', or ')}${swept > 0 ? ` (${swept} were swept, which leaves gaps too)` : ''}`;
}

/** What was found about the changes of a channel. Sequences name the first message of a kind. */
export interface ChangeFacts {
  readonly channelKey: number;
  /** The number of the last change by the head; 0: none. */
  readonly lastChange: number;
  /** Changes removed with their messages. */
  readonly swept: number;
  readonly kept: number;
  readonly lastKept: number;
  /** Changed messages that do not exist. */
  readonly strays: number;
  readonly strayAt: number;
  /** Messages that are not as their changes say. */
  readonly wrong: number;
  readonly wrongAt: number;
  /** Recalled messages that still have content. */
  readonly unerased: number;
  readonly unerasedAt: number;
}

/** A channel, to name it in a violation. */
export interface NamedChannel {
  readonly channelType: number;
  readonly channelId: string;
  readonly sequence: number;
}

/** The invariants of recalls and edits that a channel violates. */
export function changeViolationsOf(channel: NamedChannel, facts: ChangeFacts): ChannelViolation[] {
  const faults: ChannelViolation[] = [];
  const { lastChange, swept, kept, lastKept } = facts;
  const { channelType, channelId, sequence } = channel;
  const found = (kind: ChannelViolation['kind'], what: string) =>
    faults.push({ kind, channelType, channelId, sequence, what });
  if (lastKept > lastChange) found('CHANGES_AHEAD', `its head says ${lastChange} changes, its last one is ${lastKept}`);
  else if (kept + swept < lastChange)
    found('CHANGES_MISSING', `${lastChange - kept - swept} of ${lastChange} changes are missing`);
  else if (kept + swept > lastChange)
    found('CHANGES_AHEAD', `${kept} kept and ${swept} swept changes are more than the ${lastChange} of its head`);
  if (facts.strays > 0)
    found('CHANGE_WITHOUT_MESSAGE', `${facts.strays} changed messages are missing, the first has seq ${facts.strayAt}`);
  if (facts.wrong > 0)
    found('CHANGE_MISMATCH', `${facts.wrong} messages are not as their changes say, the first at seq ${facts.wrongAt}`);
  if (facts.unerased > 0)
    found('RECALLED_CONTENT', `${facts.unerased} recalled messages have content, the first at seq ${facts.unerasedAt}`);
  return faults;
}
