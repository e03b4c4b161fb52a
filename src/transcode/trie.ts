import type { Template } from './template.ts';

interface Node<T> {
  readonly literals: Map<string, Node<T>>;
  star: Node<T> | undefined;
  /** Values by verb: templates that end with `**` here, and templates that end here. */
  readonly rest: Map<string, T>;
  readonly ends: Map<string, T>;
}

const newNode = <T>(): Node<T> => ({ literals: new Map(), star: undefined, rest: new Map(), ends: new Map() });

/** A path during a search, raw and decoded. A segment that cannot be decoded equals no literal. */
interface Path {
  readonly raw: readonly string[];
  readonly decoded: readonly (string | undefined)[];
  readonly verb: string;
}

export interface Match<T> {
  readonly value: T;
  /** The raw segments of the path, without the verb. */
  readonly segments: readonly string[];
}

/**
 * Finds the templates that match a path. Precedence per segment: literal, `*`, `**`; a verb before
 * none.
 */
export class Trie<T> {
  readonly #root: Node<T> = newNode();

  /**
   * Returns the value of a template's node, created on demand. Templates that differ only in
   * variable names share a node.
   */
  at(template: Template, make: () => T): T {
    let node = this.#root;
    let ends = node.ends;
    for (const segment of template.segments) {
      if (segment === '**') {
        ends = node.rest;
        break;
      }
      if (segment === '*') {
        node.star ??= newNode();
        node = node.star;
      } else {
        const next = node.literals.get(segment.literal) ?? newNode<T>();
        node.literals.set(segment.literal, next);
        node = next;
      }
      ends = node.ends;
    }
    const value = ends.get(template.verb) ?? make();
    ends.set(template.verb, value);
    return value;
  }

  /** Yields all matches, best first. `raw` are the path's encoded segments. */
  *find(raw: readonly string[]): Generator<Match<T>> {
    const decoded = raw.map(decode);
    const last = raw.at(-1) ?? '';
    const colon = last.lastIndexOf(':');
    const verb = decode(last.slice(colon + 1));
    if (colon > 0 && verb !== undefined && verb !== '') {
      const stem = last.slice(0, colon);
      const path = { raw: [...raw.slice(0, -1), stem], decoded: [...decoded.slice(0, -1), decode(stem)], verb };
      yield* this.#walk(this.#root, path, 0);
    }
    yield* this.#walk(this.#root, { raw, decoded, verb: '' }, 0);
  }

  *#walk(node: Node<T>, path: Path, index: number): Generator<Match<T>> {
    const { raw: segments, verb } = path;
    if (index === segments.length) {
      const value = node.ends.get(verb);
      if (value !== undefined) yield { value, segments };
    } else {
      const literal = node.literals.get(path.decoded[index] ?? '');
      if (literal !== undefined) yield* this.#walk(literal, path, index + 1);
      // A variable does not match an empty segment: /v1/channels//messages names no channel.
      if (node.star !== undefined && segments[index] !== '') yield* this.#walk(node.star, path, index + 1);
    }
    const rest = node.rest.get(verb);
    if (rest !== undefined) yield { value: rest, segments };
  }
}

function decode(segment: string): string | undefined {
  try {
    return decodeURIComponent(segment);
  } catch {
    return undefined;
  }
}
