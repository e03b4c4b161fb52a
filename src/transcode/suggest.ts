import { closestMatch } from 'leven';

/** Edits apart that a misspelt name may be: more, and it is another word. */
const mostEdits = 3;

/** `; did you mean send_at?` for a name that nearly is one of those; empty when it is near none of them. */
export function didYouMean(name: string, known: Iterable<string>): string {
  const maxDistance = Math.min(mostEdits, Math.floor(name.length / 2));
  if (maxDistance === 0) return '';
  const nearest = closestMatch(name, [...known], { maxDistance });
  return nearest === undefined ? '' : `; did you mean ${nearest}?`;
}
