/**
 * Reads the counts at the end of an encoded SendBatchResponse: fields 2 (accepted), 3 (duplicate)
 * and 4 (refused), top-level varints. Walks the fields without building the results. Throws when a
 * message was refused, unless that is allowed.
 */
export function countOf(response: Buffer, mayRefuse = false): { stored: number; duplicates: number; refused: number } {
  const counts = [0, 0, 0, 0, 0];
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = response[at++] ?? 0;
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < response.length) {
    const tag = varint();
    const value = varint();
    if ((tag & 7) === 2) at += value;
    else counts[tag >> 3] = value;
  }
  const [, , stored = 0, duplicates = 0, refused = 0] = counts;
  if (refused > 0 && !mayRefuse)
    throw new Error(
      `${refused} messages were refused: ${response
        .toString('latin1')
        .replace(/[^ -~]+/g, ' ')
        .slice(-500)}`,
    );
  return { stored, duplicates, refused };
}
