import { type Client, createClient, type Transport } from '@connectrpc/connect';
import { type Batch, BatchService } from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
import type { Message } from '../../gen/client/sendbatch/v1/message_pb.ts';
import { MessageService } from '../../gen/client/sendbatch/v1/message_service_pb.ts';
import { type SubmitOptions, submit, watch } from './batches.ts';
import type { Draft, Result } from './draft.ts';
import { createRetry, type RetryOptions, untilAborted } from './retry.ts';
import { type RequestTemplate, type SendOptions, sendAll } from './send.ts';
import { type ChannelCursor, createSharedTail, type SharedTail } from './shared-tail.ts';
import { type TailOptions, type TailRequest, tail } from './tail.ts';

export type { Batch } from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
export { BatchPriority, BatchService, BatchState } from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
export type { Message } from '../../gen/client/sendbatch/v1/message_pb.ts';
export { ChannelType } from '../../gen/client/sendbatch/v1/message_pb.ts';
export { MessageService, SendMode } from '../../gen/client/sendbatch/v1/message_service_pb.ts';
export { reasonOf } from './retry.ts';
export type {
  ChannelCursor,
  Draft,
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
  /** Of `@connectrpc/connect-node` or `@connectrpc/connect-web`; the credential is set by an interceptor of it. */
  readonly transport: Transport;
  readonly retry?: Partial<RetryOptions>;
}

/** A client of sendbatch. */
export interface Sendbatch {
  /** Every RPC, without chunks and retries. */
  readonly rpc: Client<typeof MessageService>;
  /**
   * Sends any number of messages: in calls that keep the service's limits, a few at once, but those of one channel in their order. Calls that fail for now, and messages that are refused
   * for now, are sent again under the same keys. One result a message, in order; what is still refused after the last try has its `error`. Throws what no
   * retry mends.
   */
  send(messages: readonly Draft[], options?: SendOptions): Promise<Result[]>;
  /** Every RPC of batches that the service sends in the background. */
  readonly batches: Client<typeof BatchService>;
  /** Hands up to 100,000 messages to the service, which sends them in the background: at their time, in turns with others. Retried as `send` is. */
  submit(
    messages: readonly Draft[],
    options?: SubmitOptions,
  ): Promise<{ readonly batch: Batch; readonly duplicate: boolean }>;
  /** Such a batch now and after each change until it has ended, across reconnects. */
  watch(batchId: string, options?: { readonly signal?: AbortSignal }): AsyncIterable<Batch>;
  /** Follows channels, and resumes by itself: every message after the cursors once, in each channel in order. Throws what no retry mends. */
  tail(request: TailRequest, options?: TailOptions): AsyncIterable<Message>;
  /** One stream for many followers, each of a channel: a browser has six HTTP/1.1 connections per host. `uid`: whom a service reads for. */
  shareTail(options?: { readonly uid?: string }): SharedTail;
}

/** Makes a client. */
export function createSendbatch({ transport, retry = {} }: SendbatchOptions): Sendbatch {
  const rpc = createClient(MessageService, transport);
  const batches = createClient(BatchService, transport);
  const settled = createRetry(retry);
  const follow: Sendbatch['tail'] = (request, options = {}) =>
    untilAborted(options.signal, tail(rpc, request, options, settled));
  return {
    rpc,
    batches,
    submit: (messages, options = {}) => submit(batches, messages, options, settled),
    watch: (batchId, options = {}) => untilAborted(options.signal, watch(batches, batchId, options, settled)),
    send: (messages, options = {}) => sendAll(rpc, messages, options, settled),
    tail: follow,
    shareTail: ({ uid = '' } = {}) => createSharedTail(follow, uid),
  };
}
