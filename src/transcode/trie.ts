import type { Template } from './template.ts';

interface Node<T> {
  readonly literals: Map<string, Node<T>>;
  star: Node<T> | undefined;
  /** By verb: what ends in `**` here, and what ends here. */
  readonly rest: Map<string, T>;
  readonly ends: Map<string, T>;
}

const newNode = <T>(): Node<T> => ({ literals: new Map(), star: undefined, rest: new Map(), ends: new Map() });

/** Finds the templates that match a path: literals before `*` before `**`, segment by segment, and a verb before none. */
export class Trie<T> {
  readonly #root: Node<T> = newNode();

  /** The value at a template's place; templates that differ only in the names of variables have one place. */
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

  /** All matches, best first. `raw` are the path's segments as they came. */
  *find(raw: readonly string[]): Generator<{ value: T; segments: readonly string[] }> {
    const last = raw.at(-1) ?? '';
    const colon = last.lastIndexOf(':');
    if (colon > 0) {
      const segments = [...raw.slice(0, -1), last.slice(0, colon)];
      yield* this.#walk(this.#root, segments, 0, decodeURIComponent(last.slice(colon + 1)));
    }
    yield* this.#walk(this.#root, raw, 0, '');
  }

  *#walk(
    node: Node<T>,
    segments: readonly string[],
    index: number,
    verb: string,
  ): Generator<{ value: T; segments: readonly string[] }> {
    const segment = segments[index];
    if (segment === undefined) {
      const value = node.ends.get(verb);
      if (value !== undefined) yield { value, segments };
    } else {
      const literal = node.literals.get(decodeURIComponent(segment));
      if (literal !== undefined) yield* this.#walk(literal, segments, index + 1, verb);
      // A variable takes no empty segment: /v1/channels//messages names no channel.
      if (node.star !== undefined && segment !== '') yield* this.#walk(node.star, segments, index + 1, verb);
    }
    const rest = node.rest.get(verb);
    if (rest !== undefined) yield { value: rest, segments };
  }
}
