import type { Client } from '@connectrpc/connect';
import type { ChannelType } from '../../gen/client/sendbatch/v1/message_pb.ts';
import type { MessageService, RecallResult } from '../../gen/client/sendbatch/v1/message_service_pb.ts';
import { type Retry, retried } from './retry.ts';

/** The channel whose messages are recalled. */
export interface RecallChannel {
  readonly channelType: ChannelType;
  readonly channelId: string;
}

export interface RecallOptions {
  /** The user for whom a service recalls: only messages from this uid. */
  readonly uid?: string;
  readonly signal?: AbortSignal;
}

/** Messages per call: the service's limit. */
const perCall = 1000;

/** Recalls any number of messages, in calls within the service's limit. */
export async function recall(
  rpc: Client<typeof MessageService>,
  channel: RecallChannel,
  { messageSeqs, uid = '', signal }: RecallOptions & { readonly messageSeqs: readonly bigint[] },
  retry: Retry,
): Promise<RecallResult[]> {
  const results: RecallResult[] = [];
  for (let start = 0; start < messageSeqs.length; start += perCall) {
    const request = { ...channel, messageSeqs: messageSeqs.slice(start, start + perCall), uid };
    const answer = await retried(retry, signal, (options) => rpc.recallMessages(request, options));
    results.push(...answer.results);
  }
  return results;
}
