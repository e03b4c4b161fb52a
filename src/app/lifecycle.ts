/**
 * Stops what was started, in reverse order.
 *
 * Each part registers its stop right after it was started, so that a failed start and a regular
 * stop take the same path. All steps run even if one fails; the first error is thrown at the end.
 * Steps that wait for work in flight share one grace period.
 */
export class Lifecycle {
  readonly #graceMs: number;
  readonly #steps: { readonly name: string; readonly stop: () => unknown }[] = [];
  #graceEndsAt = 0;

  constructor(graceMs: number) {
    this.#graceMs = graceMs;
  }

  /** Registers a step. The last one registered runs first. */
  onStop(name: string, stop: () => unknown): void {
    this.#steps.push({ name, stop });
  }

  /** Milliseconds of the grace period that are left, at least 0. */
  graceLeftMs(): number {
    return Math.max(0, this.#graceEndsAt - performance.now());
  }

  /** Starts the grace period again: time in which load balancers are notified does not count. */
  restartGrace(): void {
    this.#graceEndsAt = performance.now() + this.#graceMs;
  }

  /** Runs all steps once. Rejects with the first error; its `stopStep` names the step. */
  async stop(): Promise<void> {
    this.restartGrace();
    const errors: unknown[] = [];
    for (const { name, stop } of this.#steps.splice(0).reverse())
      try {
        await stop();
      } catch (error) {
        errors.push(error instanceof Error ? Object.assign(error, { stopStep: name }) : error);
      }
    if (errors.length > 0) throw errors[0];
  }
}
