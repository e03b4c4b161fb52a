/** At most this many causes of causes are followed. */
const maxDepth = 4;

/**
 * An error and its causes in one line, each once, with its code where the text does not contain it.
 */
export function errorText(error: unknown): string {
  const texts: string[] = [];
  for (let each = error; each !== undefined && texts.length < maxDepth; each = (each as { cause?: unknown }).cause) {
    if (typeof each !== 'object' || each === null || !('message' in each)) {
      texts.push(String(each));
      break;
    }
    // The text of a refusal is for the caller; the operator needs its cause.
    const { cause, code } = each as { cause?: unknown; code?: unknown };
    if ('refusal' in each && cause !== undefined) continue;
    const inner = each instanceof AggregateError && each.message === '' ? each.errors.map(errorText).join(', ') : '';
    const text = String(each.message) || inner || 'error without a message';
    texts.push(typeof code === 'string' && !text.includes(code) ? `${text} (${code})` : text);
  }
  return [...new Set(texts)].join(': ') || 'unknown';
}
