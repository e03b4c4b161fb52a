import { useState } from 'react';

/** Rows of a list that the user has chosen by their ids. */
export interface Chosen {
  /** Those of the list that are chosen, as many as one call may take. */
  readonly ids: readonly bigint[];
  has(id: bigint): boolean;
  choose(ids: readonly bigint[], isChosen: boolean): void;
  clear(): void;
}

/** Keeps what is chosen while the list is read again. `ids`: of the list; `most`: for one call. */
export function useChosen(ids: readonly bigint[], most: number): Chosen {
  const [chosen, setChosen] = useState<ReadonlySet<bigint>>(new Set());
  return {
    ids: ids.filter((id) => chosen.has(id)).slice(0, most),
    has: (id) => chosen.has(id),
    choose(some, isChosen) {
      const next = new Set(chosen);
      for (const id of some) {
        if (isChosen) next.add(id);
        else next.delete(id);
      }
      setChosen(next);
    },
    clear: () => setChosen(new Set()),
  };
}
