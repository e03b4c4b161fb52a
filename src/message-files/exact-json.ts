import type { JsonValue } from '@bufbuild/protobuf';

const tokens = /"(?:[^"\\]|\\.)*"|[{}[\]]|[^\s{}[\],:"]+|[,:]/gs;

/**
 * Parses JSON without loss: refuses integers above 2^53-1, which JSON.parse rounds, and duplicate
 * names, of which it keeps one.
 */
export function parseExactly(text: string): JsonValue {
  const value = JSON.parse(text) as JsonValue;
  if (typeof value === 'object' && value !== null) assertExact(text);
  else if (typeof value === 'number') assertNumber(text.trim(), '');
  return value;
}

interface Level {
  readonly names: Set<string> | undefined;
  path: string;
  /** Objects: whether a name comes next. */
  name: boolean;
  index: number;
}

function assertExact(text: string): void {
  const levels: Level[] = [];
  for (const [token] of text.matchAll(tokens)) {
    const level = levels.at(-1);
    if (token === '{' || token === '[')
      levels.push({ names: token === '{' ? new Set() : undefined, path: '', name: token === '{', index: 0 });
    else if (token === '}' || token === ']') levels.pop();
    else if (token === ',' && level !== undefined) {
      level.name = level.names !== undefined;
      level.index++;
    } else if (token === ':' && level !== undefined) level.name = false;
    else if (token.startsWith('"') && level?.name) {
      level.path = JSON.parse(token) as string;
      if (level.names?.has(level.path)) throw new Error(`${pathOf(levels)} occurs twice`);
      level.names?.add(level.path);
    } else if (/^-?\d/.test(token)) assertNumber(token, pathOf(levels));
  }
}

function assertNumber(token: string, path: string): void {
  const value = Number(token);
  const where = path === '' ? '' : `${path}: `;
  if (!Number.isFinite(value)) throw new Error(`${where}${token} is too large for a number`);
  if (Number.isInteger(value) && !Number.isSafeInteger(value))
    throw new Error(`${where}${token} is above 2^53-1 and would be rounded: write it as a string`);
}

function pathOf(levels: readonly Level[]): string {
  return levels
    .map(({ names, path, index }) => (names === undefined ? `[${index}]` : `.${path}`))
    .join('')
    .replace(/^\./, '');
}
