/**
 * Reports that a caller has left, or that its deadline has passed. An AbortSignal is one; the calls
 * of most protocols have a cheaper one (rpc/call-signal.ts).
 */
export interface Cancellation {
  readonly aborted: boolean;
  readonly reason: unknown;
  throwIfAborted(): void;
  addEventListener(type: 'abort', listener: () => void, options?: { readonly once?: boolean }): void;
  removeEventListener(type: 'abort', listener: () => void): void;
}
