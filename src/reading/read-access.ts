import type { Caller } from '../messages/caller.ts';
import { type Channel, canonicalId, channel, messageSequence, pairId, personType } from '../messages/channel.ts';
import { readPairFacts } from '../messages/permission.sql.ts';
import { readDenial, readingPair } from '../messages/permission.ts';
import { invalidField, ServiceError } from '../messages/service-error.ts';
import type { Store } from '../sending/group-context.ts';

/** A caller that reads, and the user for which it reads. */
export interface Reader {
  readonly caller: Caller;
  /** Empty: the caller itself, or a service, which reads everything. */
  readonly uid: string;
}

/** The user whose visibility applies; undefined for a service. A user reads only as itself. */
export function viewerOf({ caller, uid }: Reader): string | undefined {
  if (caller.kind !== 'user') return uid === '' ? undefined : uid;
  if (uid === '' || uid === caller.name) return caller.name;
  throw new ServiceError({
    reason: 'READER_NOT_YOURS',
    message: `a user can only read as itself; omit the uid, or set it to ${JSON.stringify(caller.name)}`,
    metadata: { uid },
  });
}

/**
 * The channel that a reader names: a person channel by the pair in either order, or by the peer if
 * the user is known.
 */
export function channelToRead(channelType: number, channelId: string, viewerUid: string | undefined): Channel {
  if (channelType === personType && viewerUid !== undefined && !channelId.includes('@'))
    return channel(personType, pairId(viewerUid, channelId), messageSequence);
  const id = canonicalId(channelType, channelId);
  if (id === undefined) throw invalidField('channel_id', joinedWords(channelType));
  return channel(channelType, id, messageSequence);
}

function joinedWords(channelType: number): string {
  return channelType === personType
    ? 'must be the two uids joined with @ for a person channel, or the other uid when the reader is named'
    : `must be two names joined with @ for channel_type ${channelType}`;
}

/**
 * Throws unless this uid may read all of these channels now. Without a uid a service reads, which
 * may read everything that is kept, also of a disbanded channel, so that an operator can export it.
 */
export async function assertReadable(
  store: Store,
  viewerUid: string | undefined,
  channels: readonly Channel[],
): Promise<void> {
  if (viewerUid === undefined) return;
  const pairs = channels.map((each) => readingPair(viewerUid, each));
  const facts = await readPairFacts(store, pairs);
  for (const pair of pairs) {
    const known = facts.get(pair.key);
    const refusal = known && readDenial(pair, known, store.rules);
    if (refusal !== undefined) throw new ServiceError(refusal);
  }
}
