import { TranscodeError } from './error.ts';
import { decodeUtf8, deepest, endOfString, isKey } from './json-text.ts';

/**
 * The limits of a large body. They are checked while its bytes are scanned, before anything is
 * built.
 */
export interface JsonBounds {
  /** Bytes of memory that the parsed body may take, by the estimates below. */
  readonly parsedBytes: number;
  /**
   * Returns the name and limit of the root array (key undefined) or of an array in the root object;
   * undefined for `listElements`.
   */
  readonly listOf: (key: string | undefined) => { readonly field: string; readonly most: number } | undefined;
  /** Elements of any other array. */
  readonly listElements: number;
  /** Members of one object. */
  readonly objectKeys: number;
}

/**
 * Estimated bytes of memory per value, key, key of a dictionary object, and container: half of V8's
 * maximum.
 */
const valueWeight = 12;
const keyWeight = 8;
const dictionaryWeight = 40;
const containerWeight = 50;
/** V8 stores an object with more keys as a dictionary. */
const shapedKeys = 100;
/** Bytes scanned between two checks of the clock: about 0.2 ms. */
const stepBytes = 128 * 1024;

/** Characters of one number. A double has at most 767 significant digits. */
const numberChars = 1000;

/**
 * Bytes of white space between two values. More cannot be split into slices: 16 MB took 160 ms.
 */
const blankBytes = 64 * 1024;

export function isBlank(byte: number | undefined): boolean {
  return byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;
}

/** Whether a byte outside a string may belong to a number: a digit, sign or point. */
function isOfNumber(byte: number | undefined): boolean {
  return byte !== undefined && ((byte >= 0x30 && byte <= 0x39) || byte === 0x2d || byte === 0x2b || byte === 0x2e);
}

/** An open array or object. */
interface Open {
  start: number;
  isArray: boolean;
  /** The name of a list at the root. */
  field: string | undefined;
  most: number;
  commas: number;
}

/**
 * Finds the large containers of a body and checks its limits, a few bytes at a time. Results for
 * text that is not JSON do not matter: parsing refuses it.
 */
export class JsonScan {
  /** The end of each large container by its start. */
  readonly large = new Map<number, number>();
  readonly #bytes: Uint8Array;
  readonly #bounds: JsonBounds;
  /** Containers of at least this many bytes are parsed in parts. */
  readonly #largeBytes: number;
  readonly #open: Open[] = [];
  /** A pool of closed containers: millions of empty arrays were 250 MB of garbage. */
  readonly #closed: Open[] = [];
  #index = 0;
  #weight = 0;
  /** The first container over its limit. */
  #over: Open | undefined;
  /** The position of the last key in the root object. */
  #rootKey: readonly [number, number] = [0, 0];

  constructor(bytes: Uint8Array, bounds: JsonBounds, largeBytes: number) {
    this.#bytes = bytes;
    this.#bounds = bounds;
    this.#largeBytes = largeBytes;
  }

  /** Scans the next part. Returns whether the scan is complete. */
  some(): boolean {
    const bytes = this.#bytes;
    const open = this.#open;
    const end = Math.min(bytes.length, this.#index + stepBytes);
    let index = this.#index;
    let current = open.at(-1);
    for (; index < end; index++) {
      const byte = bytes[index];
      if (byte === 0x22) {
        const start = index;
        index = endOfString(bytes, index);
        if (isKey(bytes, index)) {
          this.#weight += keyWeight;
          if (open.length === 1) this.#rootKey = [start, index + 1];
        }
      } else if (byte === 0x2c) {
        if (current !== undefined) {
          this.#weight += valueWeight;
          if (++current.commas >= current.most) this.#over ??= current;
          if (!current.isArray && current.commas > shapedKeys) this.#weight += dictionaryWeight;
        }
      } else if (byte === 0x7b || byte === 0x5b) {
        if (open.length === deepest) throw new TranscodeError(400, `the body is nested deeper than ${deepest} levels`);
        current = this.#opened(index, byte === 0x5b);
        open.push(current);
        this.#weight += valueWeight + containerWeight;
      } else if (isOfNumber(byte)) {
        const start = index;
        while (isOfNumber(bytes[index + 1])) index++;
        // JSON.parse takes up to 200 ms for a number of 16 MB.
        if (index - start >= numberChars)
          throw new TranscodeError(
            400,
            `at byte ${start}: the number has ${index - start + 1} characters, at most ${numberChars} are allowed`,
          );
      } else if (isBlank(byte)) {
        const start = index;
        while (isBlank(bytes[index + 1])) if (++index - start >= blankBytes) throw tooBlank(start);
      } else if (byte === 0x7d || byte === 0x5d) {
        const closed = open.pop();
        if (closed !== undefined) {
          if (index - closed.start >= this.#largeBytes) this.large.set(closed.start, index);
          if (closed !== this.#over) this.#closed.push(closed);
        }
        current = open.at(-1);
      }
    }
    this.#index = index;
    if (index < bytes.length) return false;
    if (this.#over !== undefined) throw tooLong(this.#over);
    if (this.#weight > this.#bounds.parsedBytes) throw tooHeavy(this.#weight, this.#bounds.parsedBytes);
    return true;
  }

  #opened(start: number, isArray: boolean): Open {
    const { listOf, listElements, objectKeys } = this.#bounds;
    const depth = this.#open.length;
    const isRoots = isArray && (depth === 0 || (depth === 1 && this.#open[0]?.isArray === false));
    const list = isRoots ? listOf(depth === 0 ? undefined : this.#key()) : undefined;
    const most = list?.most ?? (isArray ? listElements : objectKeys);
    const opened = this.#closed.pop();
    if (opened === undefined) return { start, isArray, field: list?.field, most, commas: 0 };
    opened.start = start;
    opened.isArray = isArray;
    opened.field = list?.field;
    opened.most = most;
    opened.commas = 0;
    return opened;
  }

  #key(): string {
    try {
      return String(JSON.parse(decodeUtf8(this.#bytes.subarray(...this.#rootKey))));
    } catch {
      return '';
    }
  }
}

function tooLong({ isArray, field, most, start, commas }: Open): TranscodeError {
  const actual = commas + 1;
  const where = field === undefined ? `at byte ${start}: ` : '';
  const what = isArray ? 'elements' : 'keys in one object';
  const description = `${where}must have at most ${most} ${what}, not ${actual}; send fewer at once`;
  const at = field ?? 'body';
  return new TranscodeError(413, `${at}: ${description}`, [{ field: at, description }], {}, { limit: most, actual });
}

function tooBlank(start: number): TranscodeError {
  return new TranscodeError(400, `at byte ${start}: more than ${blankBytes} bytes of white space in a row`);
}

function tooHeavy(actual: number, limit: number): TranscodeError {
  const description = `has too many values: about ${actual} bytes when parsed, at most ${limit} are allowed; send fewer at once`;
  return new TranscodeError(413, `the body ${description}`, [{ field: 'body', description }], {}, { limit, actual });
}
