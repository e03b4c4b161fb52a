import { type Client, Code, ConnectError } from '@connectrpc/connect';
import type { BatchReach, BatchService } from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
import type { ChannelType } from '../../gen/client/sendbatch/v1/message_pb.ts';
import type { ListReadersResponse, MessageService } from '../../gen/client/sendbatch/v1/message_service_pb.ts';
import { type Retry, retried } from './retry.ts';

/** The message whose readers are listed. */
export interface ReadMessage {
  readonly channelType: ChannelType;
  readonly channelId: string;
  readonly messageSeq: bigint;
}

export interface ReadersOptions {
  /** The user for whom a service asks: only the sender may. */
  readonly uid?: string;
  readonly signal?: AbortSignal;
}

/** Counts who has received and read a batch; waits while the caller's previous question runs. */
export async function batchReach(
  rpc: Client<typeof BatchService>,
  batchId: string,
  { signal }: { readonly signal?: AbortSignal },
  retry: Retry,
): Promise<BatchReach> {
  const { reach } = await retried(retry, signal, (options) => rpc.getBatchReach({ batchId }, options));
  if (reach === undefined) throw new ConnectError('the answer has no reach', Code.Internal);
  return reach;
}

/** Yields the uids that have read a message, page by page. */
export async function* readers(
  rpc: Client<typeof MessageService>,
  message: ReadMessage,
  { uid = '', signal }: ReadersOptions,
  retry: Retry,
): AsyncGenerator<string> {
  const retries = retry.begin(signal);
  for (let pageToken = ''; ; ) {
    let page: ListReadersResponse;
    try {
      page = await rpc.listReaders({ ...message, uid, pageToken }, signal === undefined ? {} : { signal });
    } catch (error) {
      await retries.after(error);
      continue;
    }
    retries.onProgress();
    for (const each of page.readers) yield each.uid;
    pageToken = page.nextPageToken;
    if (pageToken === '') return;
  }
}
