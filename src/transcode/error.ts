import { Code, ConnectError } from '@connectrpc/connect';

/** A field of a request at fault: `messages[3].channel_id`, and what is wrong with it. */
export interface FieldFault {
  readonly field: string;
  readonly description: string;
}

/** How large something may be, and how large it is. */
export interface Size {
  readonly limit: number;
  readonly actual: number;
}

/** A request that could not become a call. */
export class TranscodeError extends ConnectError {
  readonly httpStatus: number;
  readonly faults: readonly FieldFault[];
  /** What HTTP wants beside the status: `Allow` with 405, `Accept-Encoding` with 415. Set on the answer after the owner's headers. */
  readonly headers: Readonly<Record<string, string>>;
  /** What was too large: the bound, and the size. */
  readonly size: Size | undefined;

  constructor(
    httpStatus: number,
    message: string,
    faults: readonly FieldFault[] = [],
    headers: Readonly<Record<string, string>> = {},
    size?: Size,
  ) {
    super(message, httpStatus === 404 ? Code.NotFound : httpStatus === 405 ? Code.Unimplemented : Code.InvalidArgument);
    this.httpStatus = httpStatus;
    this.faults = faults;
    this.headers = headers;
    this.size = size;
  }

  // ConnectError answers instanceof by shape, for copies of its package; here the class itself is meant.
  static override [Symbol.hasInstance](value: unknown): boolean {
    return (
      typeof value === 'object' &&
      value !== null &&
      Object.prototype.isPrototypeOf.call(TranscodeError.prototype, value)
    );
  }
}

/** Where a value stands in a request. A chain, so that no path is spelled out for the values that are right. */
export interface Place {
  readonly parent: Place | undefined;
  readonly step: Step;
}

/** A field's name, an index, or a key of a map as `["key"]`. */
export type Step = string | number;

const keyChars = 64;

/** A key of JSON as a step: as it is where it is a name, else quoted, and cut. */
export function stepOf(key: string): string {
  if (/^[A-Za-z_]\w{0,63}$/.test(key)) return key;
  return `[${JSON.stringify(key.length > keyChars ? `${key.slice(0, keyChars)}…` : key)}]`;
}

function spell(place: Place | undefined, step: Step): string {
  const parent = place === undefined ? '' : spell(place.parent, place.step);
  if (typeof step === 'number') return `${parent}[${step}]`;
  return parent === '' || step.startsWith('[') ? parent + step : `${parent}.${step}`;
}

/** More faults than these are counted, not named: an answer must not grow with the mistakes of a request. */
const namedFaults = 100;

/** Gathers what is wrong with one request. */
export class Faults {
  readonly #list: FieldFault[] = [];
  #count = 0;

  /** No more of them are named. */
  get isFull(): boolean {
    return this.#list.length >= namedFaults;
  }

  add(field: string, description: string): void {
    this.#count++;
    if (this.#list.length < namedFaults) this.#list.push({ field, description });
  }

  addAt(parent: Place | undefined, step: Step, description: string): void {
    this.add(this.#list.length < namedFaults ? spell(parent, step) : '', description);
  }

  /** Throws when there is anything to say. */
  settle(): void {
    const error = this.error();
    if (error !== undefined) throw error;
  }

  /** All of them as one error; undefined when there is nothing to say. */
  error(): TranscodeError | undefined {
    const [first] = this.#list;
    if (first === undefined) return undefined;
    const rest = this.#count > 1 ? ` (and ${this.#count - 1} more)` : '';
    return new TranscodeError(400, `${first.field}: ${first.description}${rest}`, this.#list);
  }
}
