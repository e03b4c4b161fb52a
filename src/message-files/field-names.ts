import leven from 'leven';

/** Whether a column's name is a field's name, or differs from it by a letter or two. */
export function resembles(name: string, field: string): boolean {
  const [bareName, bareField] = [toBareName(name), toBareName(field)];
  if (bareName === bareField) return true;
  // Short names are similar to too many words.
  const maxDistance = bareField.length >= 7 ? 2 : 1;
  return leven(bareName, bareField, { maxDistance: maxDistance + 1 }) <= maxDistance;
}

/** Normalizes spellings such as `Channel ID`, `channelId` and `channel-id`. */
export function toBareName(name: string): string {
  return name.toLowerCase().replace(/[^\p{L}\p{N}]/gu, '');
}
