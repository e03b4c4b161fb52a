import { create } from '@bufbuild/protobuf';
import { createConnectQueryKey, useQuery, useTransport } from '@connectrpc/connect-query';
import { useQueryClient } from '@tanstack/react-query';
import { useEffect, useState } from 'react';
import { BatchService, GetBatchResponseSchema } from '../../gen/client/sendbatch/v1/batch_service_pb.ts';
import type { Batch } from '../../src/client/index.ts';
import { sendbatch } from '../api/client.ts';
import { isSettled } from './batch-state.ts';

export interface FollowedBatch {
  readonly batch: Batch | undefined;
  readonly error: Error | null;
  readonly isPending: boolean;
  readonly refetch: () => void;
  /** When the batch was last heard of, in ms since 1970. */
  readonly at: number;
  /** Whether each change arrives by itself. */
  readonly isLive: boolean;
}

/** A batch that follows its changes until it and its recall have ended, across lost connections. */
export function useBatch(batchId: string): FollowedBatch {
  const transport = useTransport();
  const queryClient = useQueryClient();
  const { data, error, isPending, refetch, dataUpdatedAt } = useQuery(BatchService.method.getBatch, { batchId });
  const [isLive, setLive] = useState(false);
  const batch = data?.batch;
  const isFollowed = batch !== undefined && !isSettled(batch);
  useEffect(() => {
    if (!isFollowed) return;
    const stop = new AbortController();
    const queryKey = createConnectQueryKey({
      schema: BatchService.method.getBatch,
      input: { batchId },
      transport,
      cardinality: 'finite',
    });
    const follow = async () => {
      for await (const next of sendbatch.watch(batchId, { signal: stop.signal })) {
        setLive(true);
        queryClient.setQueryData(queryKey, create(GetBatchResponseSchema, { batch: next }));
      }
    };
    follow()
      // The query tells of errors that last.
      .catch(() => void queryClient.invalidateQueries({ queryKey }))
      .finally(() => setLive(false));
    return () => stop.abort();
  }, [isFollowed, batchId, transport, queryClient]);
  return { batch, error, isPending, refetch: () => void refetch(), at: dataUpdatedAt, isLive };
}
