/** A value in an `OpenList`, by which it is removed. */
export interface OpenNode<T> {
  readonly value: T;
  before: OpenNode<T> | undefined;
  after: OpenNode<T> | undefined;
}

/**
 * Open exchanges in the order of their arrival. Not a Set: each table of a Set points to the one
 * that replaced it, so that, once a table is in the old generation, all later ones stay with their
 * values until a full collection. That kept 3 kB of every finished JSON call.
 */
export class OpenList<T> {
  #first: OpenNode<T> | undefined;
  #last: OpenNode<T> | undefined;

  add(value: T): OpenNode<T> {
    const node: OpenNode<T> = { value, before: this.#last, after: undefined };
    if (this.#last === undefined) this.#first = node;
    else this.#last.after = node;
    this.#last = node;
    return node;
  }

  /** Removes a value; call it once per node. */
  remove(node: OpenNode<T>): void {
    const { before, after } = node;
    if (before === undefined) this.#first = after;
    else before.after = after;
    if (after === undefined) this.#last = before;
    else after.before = before;
    node.before = undefined;
    node.after = undefined;
  }

  /** The values that are open now, oldest first. */
  values(): T[] {
    const values: T[] = [];
    for (let node = this.#first; node !== undefined; node = node.after) values.push(node.value);
    return values;
  }
}
