import { closestMatch } from 'leven';

/** The largest edit distance of a suggestion. */
const mostEdits = 3;

/**
 * Returns `; did you mean send_at?` for a name close to a known one, and an empty text otherwise.
 */
export function didYouMean(name: string, known: Iterable<string>): string {
  const maxDistance = Math.min(mostEdits, Math.floor(name.length / 2));
  if (maxDistance === 0) return '';
  const nearest = closestMatch(name, [...known], { maxDistance });
  return nearest === undefined ? '' : `; did you mean ${nearest}?`;
}
