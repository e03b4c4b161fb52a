/**
 * The client of sendbatch for Node and browsers, over any Connect transport.
 *
 * - `send` splits messages into calls and retries what may succeed; `submit` and `watch` use
 *   batches that the service sends in the background.
 * - `tail` and `shareTail` follow channels and resume after the last message received.
 * - Every message has a key before its first attempt, so a retry never stores it twice.
 * - Messages of one channel are sent one call after the other, in their order.
 */
import { type Client, createClient, type Transport } from '@connectrpc/connect';
import { type Batch, type BatchReach, BatchService } from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
import type { Message } from '../../gen/client/sendbatch/v1/message_pb.ts';
import { MessageService, type RecallResult } from '../../gen/client/sendbatch/v1/message_service_pb.ts';
import { recallBatch, type SubmitOptions, submit, watch } from './batches.ts';
import type { Draft, Result } from './draft.ts';
import { batchReach, type ReadersOptions, type ReadMessage, readers } from './reach.ts';
import { type RecallChannel, type RecallOptions, recall } from './recall.ts';
import { createRetry, type RetryOptions, untilAborted } from './retry.ts';
import { type RequestTemplate, type SendOptions, sendAll } from './send.ts';
import { type ChannelCursor, createSharedTail, type SharedTail } from './shared-tail.ts';
import { type TailOptions, type TailRequest, tail } from './tail.ts';

export type { Batch, BatchReach, ReachCounts } from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
export {
  BatchPriority,
  BatchService,
  BatchState,
  RecallState,
} from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
export type { Message } from '../../gen/client/sendbatch/v1/message_pb.ts';
export { ChannelType, MessageState } from '../../gen/client/sendbatch/v1/message_pb.ts';
export type { MessageChanged } from '../../gen/client/sendbatch/v1/message_service_pb.ts';
export { ChangeKind, MessageService, SendMode } from '../../gen/client/sendbatch/v1/message_service_pb.ts';
export { reasonOf } from './retry.ts';
export type {
  ChannelCursor,
  Draft,
  ReadersOptions,
  ReadMessage,
  RecallChannel,
  RecallOptions,
  RecallResult,
  RequestTemplate,
  Result,
  RetryOptions,
  SendOptions,
  SharedTail,
  SubmitOptions,
  TailOptions,
  TailRequest,
};

export interface SendbatchOptions {
  /**
   * A transport of `@connectrpc/connect-node` or `@connectrpc/connect-web`. Its interceptor sets
   * the credential.
   */
  readonly transport: Transport;
  readonly retry?: Partial<RetryOptions>;
}

/** A client of sendbatch. */
export interface Sendbatch {
  /** The plain RPCs of MessageService, without splitting and retries. */
  readonly rpc: Client<typeof MessageService>;
  /**
   * Sends any number of messages and returns one result per message, in the order of the input.
   *
   * Splits them into calls within the service's limits and runs several calls at once; messages of
   * one channel stay in order. Retries failed calls and messages refused with a retryable reason,
   * with the same keys. A message still refused after the last attempt has its `error`. Throws an
   * error that no retry can fix.
   */
  send(messages: readonly Draft[], options?: SendOptions): Promise<Result[]>;
  /** The plain RPCs of BatchService. */
  readonly batches: Client<typeof BatchService>;
  /**
   * Submits up to 100,000 messages, which the service sends in the background. Retried like `send`.
   */
  submit(
    messages: readonly Draft[],
    options?: SubmitOptions,
  ): Promise<{ readonly batch: Batch; readonly duplicate: boolean }>;
  /**
   * Takes back messages of a channel, by sequence: their content is erased for every reader. Any
   * number; retried like `send`. One result each.
   */
  recall(channel: RecallChannel, messageSeqs: readonly bigint[], options?: RecallOptions): Promise<RecallResult[]>;
  /**
   * Stops a batch and takes back what it has sent, in the background; retried like `send`. `watch`
   * follows it.
   */
  recallBatch(batchId: string, options?: { readonly signal?: AbortSignal }): Promise<Batch>;
  /**
   * Yields a batch now and after each change until it has ended, as has its recall if there is one,
   * across reconnects.
   */
  watch(batchId: string, options?: { readonly signal?: AbortSignal }): AsyncIterable<Batch>;
  /**
   * Counts who has received and read the messages of a batch, as it is now. Waits while another
   * question of this caller is answered.
   */
  batchReach(batchId: string, options?: { readonly signal?: AbortSignal }): Promise<BatchReach>;
  /** Yields the uids that have read a message, in their order. */
  readers(message: ReadMessage, options?: ReadersOptions): AsyncIterable<string>;
  /**
   * Follows channels and resumes after interruptions: every message after the cursors once, in
   * order per channel. Throws an error that no retry can fix.
   */
  tail(request: TailRequest, options?: TailOptions): AsyncIterable<Message>;
  /**
   * Shares one stream among many followers, each of one channel: a browser has six HTTP/1.1
   * connections per host. `uid` is the user that a service reads for.
   */
  shareTail(options?: { readonly uid?: string }): SharedTail;
}

/** Creates a client. */
export function createSendbatch({ transport, retry = {} }: SendbatchOptions): Sendbatch {
  const rpc = createClient(MessageService, transport);
  const batches = createClient(BatchService, transport);
  const settled = createRetry(retry);
  const follow: Sendbatch['tail'] = (request, options = {}) =>
    untilAborted(options.signal, tail(rpc, request, options, settled));
  return {
    rpc,
    batches,
    recall: (channel, messageSeqs, options = {}) => recall(rpc, channel, { messageSeqs, ...options }, settled),
    recallBatch: (batchId, options = {}) => recallBatch(batches, batchId, options, settled),
    submit: (messages, options = {}) => submit(batches, messages, options, settled),
    watch: (batchId, options = {}) => untilAborted(options.signal, watch(batches, batchId, options, settled)),
    batchReach: (batchId, options = {}) => batchReach(batches, batchId, options, settled),
    readers: (message, options = {}) => untilAborted(options.signal, readers(rpc, message, options, settled)),
    send: (messages, options = {}) => sendAll(rpc, messages, options, settled),
    tail: follow,
    shareTail: ({ uid = '' } = {}) => createSharedTail(follow, uid),
  };
}
