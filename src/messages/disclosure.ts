import type { Outcome } from './append-plan.ts';
import type { Caller } from './caller.ts';
import type { Refusal } from './service-error.ts';

/**
 * Metadata for callers with the scope `read` only: the head of a channel, and the numbers of
 * earlier messages.
 */
const readersOnly = ['actual', 'message_id', 'message_seq'];

/**
 * The refusal as a caller may see it. Without the scope `admin` it does not disclose whether a
 * channel exists of which the sender is no member; without `read`, no sequence and no id that the
 * caller could not know.
 */
export function disclosed(caller: Caller, refusal: Refusal): Refusal {
  const { forOutsiders, ...plain } = refusal;
  if (forOutsiders !== undefined && !caller.scopes.has('admin')) return forOutsiders;
  if (caller.scopes.has('read')) return forOutsiders === undefined ? refusal : plain;
  if (plain.reason === 'SEQ_MISMATCH')
    return {
      ...plain,
      message:
        "the channel's last sequence is not the expected one; a credential with the scope read gets the actual one",
      metadata: withoutReaders(plain.metadata),
    };
  return plain.reason === 'CLIENT_MSG_NO_REUSED' ? { ...plain, metadata: withoutReaders(plain.metadata) } : plain;
}

function withoutReaders(metadata: Refusal['metadata']): Refusal['metadata'] {
  return Object.fromEntries(Object.entries(metadata).filter(([name]) => !readersOnly.includes(name)));
}

/** The outcomes as a caller may see them. */
export function disclosedOutcomes(caller: Caller, outcomes: readonly Outcome[]): readonly Outcome[] {
  if (!outcomes.some((outcome) => outcome.kind === 'refused')) return outcomes;
  return outcomes.map((outcome) =>
    outcome.kind === 'refused' ? { ...outcome, refusal: disclosed(caller, outcome.refusal) } : outcome,
  );
}
