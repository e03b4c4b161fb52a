import { QueryClient } from '@tanstack/react-query';
import { retryDelay } from '../../src/client/retry.ts';

const maxRetries = 4;

/** Retries what a retry can fix, and no earlier than the service asks for. */
export function createQueryClient(): QueryClient {
  return new QueryClient({
    defaultOptions: {
      queries: {
        retry: (failures, error) => failures < maxRetries && retryDelay(error) !== undefined,
        retryDelay: (failures, error) => (retryDelay(error) ?? 0) + (0.5 + Math.random()) * 250 * 2 ** failures,
        staleTime: 5_000,
        refetchOnWindowFocus: true,
        refetchOnReconnect: true,
        // Without a network, a service on this machine still answers.
        networkMode: 'always',
      },
      // The user decides about another attempt of a change.
      mutations: { retry: false, networkMode: 'always' },
    },
  });
}
