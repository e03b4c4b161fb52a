import { type Place, stepOf } from './error.ts';
import { isBlank, type JsonBounds, JsonScan } from './json-scan.ts';
import { type BodyNames, decodeUtf8, endOfString, notJson, parseJson, rootOf, twice } from './json-text.ts';
import { lossyOf, markLossy } from './numbers.ts';
import type { Slices } from './slices.ts';

/** Bytes of JSON parsed in one piece: about 1 ms. */
const usualSliceBytes = 64 * 1024;
const comma = 0x2c;

/**
 * Parses a large body without stalling the event loop. JSON.parse alone takes 150 ms for 16 MiB of
 * small objects.
 *
 * Containers above `sliceBytes` are split at their commas, and their members are parsed in groups.
 */
export async function parseJsonInSlices(
  bytes: Uint8Array,
  bounds: JsonBounds,
  names: BodyNames,
  slices: Slices,
  sliceBytes = usualSliceBytes,
): Promise<unknown> {
  const scan = new JsonScan(bytes, bounds, sliceBytes);
  while (!scan.some()) if (slices.isOver()) await slices.rest();
  return await new SlicedParse(bytes, scan.large, slices, sliceBytes).root(names);
}

class SlicedParse {
  readonly #bytes: Uint8Array;
  /** The end of each large container by its start. */
  readonly #ends: ReadonlyMap<number, number>;
  readonly #slices: Slices;

  readonly #sliceBytes: number;

  constructor(bytes: Uint8Array, ends: ReadonlyMap<number, number>, slices: Slices, sliceBytes: number) {
    this.#sliceBytes = sliceBytes;
    this.#bytes = bytes;
    this.#ends = ends;
    this.#slices = slices;
  }

  async root(names: BodyNames): Promise<unknown> {
    let start = 0;
    while (isBlank(this.#bytes[start])) start++;
    const end = this.#ends.get(start);
    if (end === undefined) return parseJson(this.#bytes, names);
    this.#assertBlank(end + 1, this.#bytes.length);
    return await this.#container(start, end, rootOf(this.#bytes[start] === 0x5b, names));
  }

  /** Parses a large container. `at` is its place. */
  async #container(start: number, end: number, at: Place | undefined): Promise<unknown> {
    const isArray = this.#bytes[start] === 0x5b;
    if (this.#bytes[end] !== (isArray ? 0x5d : 0x7d)) throw notJson(end);
    const into: unknown[] | Record<string, unknown> = isArray ? [] : {};
    // The first member of the current group, and the current member.
    let group = start + 1;
    let member = group;
    let depth = 0;
    let large = -1;
    for (let index = group; index <= end; index++) {
      const byte = this.#bytes[index];
      if (byte === 0x22) index = endOfString(this.#bytes, index);
      else if (index < end && (byte === 0x7b || byte === 0x5b)) {
        const closing = this.#ends.get(index);
        if (closing === undefined) depth++;
        else {
          if (large !== -1) throw notJson(index);
          large = index;
          index = closing;
        }
      } else if (index < end && (byte === 0x7d || byte === 0x5d)) depth--;
      else if (index === end || (byte === comma && depth === 0)) {
        if (large !== -1) {
          if (member > group) this.#group(into, at, group, member - 1);
          await this.#largeMember(into, at, member, { large, to: index });
          group = index + 1;
        } else if (index === end || index - group >= this.#sliceBytes) {
          const isEmpty = index === end && group === start + 1;
          if (!isEmpty || !this.#isBlank(group, index)) this.#group(into, at, group, index);
          group = index + 1;
        }
        member = index + 1;
        large = -1;
        if (this.#slices.isOver()) await this.#slices.rest();
      }
    }
    return into;
  }

  /** Parses several members together. */
  #group(into: unknown[] | Record<string, unknown>, at: Place | undefined, from: number, to: number): void {
    const isArray = Array.isArray(into);
    const bytes = new Uint8Array(to - from + 2);
    bytes.set(this.#bytes.subarray(from, to), 1);
    bytes[0] = isArray ? 0x5b : 0x7b;
    bytes[bytes.length - 1] = isArray ? 0x5d : 0x7d;
    if (this.#isBlank(from, to)) throw notJson(from);
    const first = isArray ? into.length : 0;
    const parsed = parseJson(bytes, {}, { offset: from - 1, at, first }) as object;
    for (const key of lossyOf(parsed) ?? []) markLossy(into, isArray ? String(first + Number(key)) : key);
    if (isArray) for (const each of parsed as unknown[]) into.push(each);
    else for (const [key, value] of Object.entries(parsed)) put(into, at, key, value);
  }

  async #largeMember(
    into: unknown[] | Record<string, unknown>,
    at: Place | undefined,
    from: number,
    { large, to }: { readonly large: number; readonly to: number },
  ): Promise<void> {
    const closing = this.#ends.get(large) ?? to;
    this.#assertBlank(closing + 1, to);
    if (Array.isArray(into)) {
      this.#assertBlank(from, large);
      into.push(await this.#container(large, closing, { parent: at, step: into.length }));
      return;
    }
    const head = parseJson(
      Buffer.from(`{${decodeUtf8(this.#bytes.subarray(from, large))}null}`),
      {},
      { offset: from - 1, at, first: 0 },
    );
    const [key, more] = Object.keys(head as object);
    if (key === undefined || more !== undefined) throw notJson(large);
    put(into, at, key, await this.#container(large, closing, { parent: at, step: stepOf(key) }));
  }

  #isBlank(from: number, to: number): boolean {
    for (let index = from; index < to; index++) if (!isBlank(this.#bytes[index])) return false;
    return true;
  }

  #assertBlank(from: number, to: number): void {
    if (!this.#isBlank(from, to)) throw notJson(from);
  }
}

/** Sets a member, whose key may be __proto__. */
function put(into: Record<string, unknown>, at: Place | undefined, key: string, value: unknown): void {
  if (Object.hasOwn(into, key)) throw twice(at, stepOf(key));
  if (key !== '__proto__') into[key] = value;
  else Object.defineProperty(into, key, { value, enumerable: true, writable: true, configurable: true });
}
