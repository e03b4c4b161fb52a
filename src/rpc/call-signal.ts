import type { Cancellation } from '../messages/cancellation.ts';

/**
 * Cancels one call: an AbortController with the parts that a send needs. The web class and its
 * events took 4 % of a single send, and almost no call is cancelled.
 */
export class CallSignal implements Cancellation {
  aborted = false;
  reason: unknown = undefined;
  #listeners: (() => void)[] | undefined;
  #web: AbortController | undefined;

  /** The same as an AbortSignal, for what takes no other; created when it is asked for. */
  get signal(): AbortSignal {
    if (this.#web === undefined) {
      this.#web = new AbortController();
      if (this.aborted) this.#web.abort(this.reason);
    }
    return this.#web.signal;
  }

  /** Has no effect after the first time. */
  abort(reason: unknown): void {
    if (this.aborted) return;
    this.aborted = true;
    this.reason = reason;
    const listeners = this.#listeners ?? [];
    this.#listeners = undefined;
    this.#web?.abort(reason);
    for (const listener of listeners) listener();
  }

  throwIfAborted(): void {
    if (this.aborted) throw this.reason;
  }

  /** Every listener is called once: there is one abort. */
  addEventListener(_type: 'abort', listener: () => void): void {
    if (this.aborted) return;
    this.#listeners ??= [];
    this.#listeners.push(listener);
  }

  removeEventListener(_type: 'abort', listener: () => void): void {
    const position = this.#listeners?.indexOf(listener) ?? -1;
    if (position !== -1) this.#listeners?.splice(position, 1);
  }
}
