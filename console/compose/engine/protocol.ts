import type { EngineError } from './engine.ts';

/** Methods that the page calls on the worker. */
export type Method = 'open' | 'close' | 'rows' | 'audience' | 'nextRow' | 'preview' | 'check' | 'sendTest' | 'submit';

/** From the page to the worker. */
export type ToWorker =
  | { readonly id: number; readonly method: Method; readonly values: readonly unknown[] }
  | { readonly id: number; readonly abort: true };

/** From the worker to the page; exactly one `result` or `error` per call. */
export type FromWorker =
  | { readonly id: number; readonly progress: unknown }
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly error: EngineError };
