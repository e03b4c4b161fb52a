import { Code, ConnectError } from '@connectrpc/connect';

/** An invalid field, such as `messages[3].channel_id`, and what is wrong with it. */
export interface FieldFault {
  readonly field: string;
  readonly description: string;
}

/** A limit and the value that exceeds it. */
export interface Size {
  readonly limit: number;
  readonly actual: number;
}

/** A request that could not become a call. */
export class TranscodeError extends ConnectError {
  readonly httpStatus: number;
  readonly faults: readonly FieldFault[];
  /**
   * Headers that HTTP requires with the status: `Allow` with 405, `Accept-Encoding` with 415. They
   * override the headers of `failure`.
   */
  readonly headers: Readonly<Record<string, string>>;
  /** The exceeded limit and the actual size. */
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

  // ConnectError matches instanceof by shape, across copies of its package. Here only this class
  // matches.
  static override [Symbol.hasInstance](value: unknown): boolean {
    return (
      typeof value === 'object' &&
      value !== null &&
      Object.prototype.isPrototypeOf.call(TranscodeError.prototype, value)
    );
  }
}

/**
 * The position of a value in a request. A linked list, so that paths of valid values are never
 * formatted.
 */
export interface Place {
  readonly parent: Place | undefined;
  readonly step: Step;
}

/** A field name, an index, or a map key as `["key"]`. */
export type Step = string | number;

const keyChars = 64;

/**
 * Returns a JSON key as a step: unchanged when it is an identifier, otherwise quoted and truncated.
 */
export function stepOf(key: string): string {
  if (/^[A-Za-z_]\w{0,63}$/.test(key)) return key;
  return `[${JSON.stringify(key.length > keyChars ? `${key.slice(0, keyChars)}…` : key)}]`;
}

function spell(place: Place | undefined, step: Step): string {
  const parent = place === undefined ? '' : spell(place.parent, place.step);
  if (typeof step === 'number') return `${parent}[${step}]`;
  return parent === '' || step.startsWith('[') ? parent + step : `${parent}.${step}`;
}

/**
 * Further faults are counted but not named, so that an answer does not grow with the request's
 * mistakes.
 */
const namedFaults = 100;

/** Collects the faults of one request. */
export class Faults {
  readonly #list: FieldFault[] = [];
  #count = 0;

  /** Whether further faults are only counted. */
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

  /** Throws when there are faults. */
  settle(): void {
    const error = this.error();
    if (error !== undefined) throw error;
  }

  /** Returns all faults as one error; undefined when there are none. */
  error(): TranscodeError | undefined {
    const [first] = this.#list;
    if (first === undefined) return undefined;
    const rest = this.#count > 1 ? ` (and ${this.#count - 1} more)` : '';
    return new TranscodeError(400, `${first.field}: ${first.description}${rest}`, this.#list);
  }
}
