/** Header fields as Node has them: names in lower case. */
type Fields = Readonly<Record<string, string | readonly string[] | undefined>>;

/** Fields that may occur several times and must not be joined. */
const unjoined = 'set-cookie';
/** A name (RFC 9110) in lower case, and a value without the characters that end a field. */
const plainName = /^[a-z0-9!#$%&'*+.^_`|~-]+$/;
const plainValue = /^[\x20-\x7e]*$/;

/**
 * Headers for the path of a call. The web class copies, checks and sorts every field, 8 % of a
 * single send; most calls read three fields and set one.
 *
 * - Reading takes the fields from Node's object, without a copy.
 * - Single plain fields that are set are kept in a list.
 * - Anything else goes to a web Headers that is created then.
 */
export class LightHeaders implements Headers {
  #given: Fields | undefined;
  /** Names and values, one after the other: a map takes 200 bytes more for the usual one or two. */
  #own: string[] = [];
  #web: Headers | undefined;

  /** `given`: the fields to begin with, read on demand; HTTP/2's pseudo-headers are left out. */
  constructor(given?: Fields) {
    this.#given = given;
  }

  get(name: string): string | null {
    if (this.#web !== undefined) return this.#web.get(name);
    const key = name.toLowerCase();
    const at = this.#valueAt(key);
    if (at !== -1) return this.#own[at] as string;
    const value = isPseudo(key) ? undefined : this.#given?.[key];
    if (typeof value === 'string') return value;
    return Array.isArray(value) ? value.join(', ') : null;
  }

  has(name: string): boolean {
    return this.get(name) !== null;
  }

  set(name: string, value: string): void {
    const key = name.toLowerCase();
    if (this.#web !== undefined || key === unjoined || !plainName.test(key) || !isPlainValue(value)) {
      this.#asWeb().set(name, value);
      return;
    }
    const at = this.#valueAt(key);
    if (at !== -1) this.#own[at] = value;
    else if (this.#own.length > 0) this.#own.push(key, value);
    // Pushed to an empty array, two values would get room for 17.
    else this.#own = [key, value];
  }

  append(name: string, value: string): void {
    this.#asWeb().append(name, value);
  }

  delete(name: string): void {
    if (this.has(name)) this.#asWeb().delete(name);
  }

  getSetCookie(): string[] {
    return this.#asWeb().getSetCookie();
  }

  forEach(visit: (value: string, name: string, headers: Headers) => void, self?: unknown): void {
    for (const [name, value] of this) visit.call(self, value, name, this);
  }

  entries(): ReturnType<Headers['entries']> {
    return this.#asWeb().entries();
  }

  keys(): ReturnType<Headers['keys']> {
    return this.#asWeb().keys();
  }

  values(): ReturnType<Headers['values']> {
    return this.#asWeb().values();
  }

  [Symbol.iterator](): ReturnType<Headers['entries']> {
    return this.entries();
  }

  /** Copies all fields into `record`, as `Object.fromEntries` would. */
  copyInto(record: Record<string, string>): void {
    if (this.#web !== undefined || this.#given !== undefined) for (const [name, value] of this) record[name] = value;
    else for (let at = 0; at < this.#own.length; at += 2) record[this.#own[at] as string] = this.#own[at + 1] as string;
  }

  /** The position of a field's value in `#own`, or -1. */
  #valueAt(key: string): number {
    for (let at = 0; at < this.#own.length; at += 2) if (this.#own[at] === key) return at + 1;
    return -1;
  }

  #asWeb(): Headers {
    if (this.#web !== undefined) return this.#web;
    const web = new Headers();
    for (const [name, value] of Object.entries(this.#given ?? {})) {
      if (isPseudo(name) || value === undefined) continue;
      if (typeof value === 'string') web.append(name, value);
      else for (const each of value) web.append(name, each);
    }
    for (let at = 0; at < this.#own.length; at += 2) web.set(this.#own[at] as string, this.#own[at + 1] as string);
    this.#web = web;
    this.#given = undefined;
    this.#own = [];
    return web;
  }
}

function isPseudo(name: string): boolean {
  return name.charCodeAt(0) === 0x3a;
}

/** Values at whose ends the web class removes spaces are left to it. */
function isPlainValue(value: string): boolean {
  return typeof value === 'string' && plainValue.test(value) && value.trim() === value;
}

/** Headers as an object, for Node, which they overwrite if there is one. */
export function recordOf(
  headers: Headers | undefined,
  others?: Readonly<Record<string, string>>,
): Record<string, string> {
  const record: Record<string, string> = { ...others };
  if (headers instanceof LightHeaders) headers.copyInto(record);
  else if (headers !== undefined) for (const [name, value] of headers) record[name] = value;
  return record;
}
