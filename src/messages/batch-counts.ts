/** Messages of a batch, counted by outcome. */
export interface BatchCounts {
  readonly accepted: number;
  readonly duplicates: number;
  readonly refused: number;
}
