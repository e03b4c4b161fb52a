/**
 * Messages of a batch, counted by outcome. The one shape of such counts: capabilities, metrics,
 * spans and the call log share it.
 */
export interface BatchCounts {
  readonly accepted: number;
  readonly duplicates: number;
  readonly refused: number;
}
